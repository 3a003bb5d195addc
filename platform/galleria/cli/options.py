"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galleria.errors import ConfigurationError

if TYPE_CHECKING:
    from galleria.pipelines.datasets import Source

DataPath = Annotated[str, typer.Argument(help="Path of a parquet file, or of a folder of them.")]
BundlePath = Annotated[Path, typer.Argument(help="Path of a trained bundle.")]
Columns = Annotated[
    list[str], typer.Option("--column", help="Name of a column in your files, if it differs: galleria's=yours.")
]
CategoryDepth = Annotated[
    int | None, typer.Option(min=1, help="Number of category levels; rows with another number are rejected.")
]

GpuCount = Annotated[
    str, typer.Option("--gpus", metavar="auto|0|N", help="GPUs to use; auto: those of the cluster and its autoscaler.")
]


def parse_pairs(values: list[str], option: str) -> dict[str, str]:
    """Parse the values of an option that is given as name=value.

    Raises:
        ConfigurationError: a value has another form.
    """
    for value in values:
        if "=" not in value:
            raise ConfigurationError(f"{option} {value!r} is not of the form name=value")
    return dict(value.split("=", 1) for value in values)


def parse_source(
    path: str, columns: list[str], category_depth: int | None, attributes: list[str] | None = None
) -> "Source":
    """Build the description of a data set from the options of a command.

    Raises:
        ConfigurationError: `columns` are not of the form name=value.
    """
    from galleria.pipelines.datasets import Source

    return Source(path, parse_pairs(columns, "--column"), category_depth, tuple(attributes or ()))
