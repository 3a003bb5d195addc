"""Options of the commands that read a user's files."""

from typing import TYPE_CHECKING, Annotated

import typer

from galleria.cli.options import parse_pairs

if TYPE_CHECKING:
    from galleria.pipelines.readers import ReadOptions

FilesPath = Annotated[
    str,
    typer.Argument(
        help="Path of a folder of pictures or videos, a table, a product feed, annotations, or a known data set."
    ),
]
Levels = Annotated[
    list[str], typer.Option("--level", help="A column that is one level of the category tree, root first.")
]
Label = Annotated[str, typer.Option(help="Column that folder names fill.")]
Videos = Annotated[str | None, typer.Option(help="Folder of the videos that an annotation file names.")]
Delimiter = Annotated[str | None, typer.Option(help="Character between the cells; by default it is recognised.")]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding of a text table, such as cp1252; by default it is recognised.")
]
Quote = Annotated[str | None, typer.Option(help="Character around cells, or '' for none; by default it is recognised.")]
CategorySeparator = Annotated[
    str | None, typer.Option(help="Text between category levels in a cell; by default ' > ', or ';'.")
]
Feed = Annotated[str | None, typer.Option(metavar="google|meta|shopify", help="Specification of a product feed.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Name of a data set's layout; by default it is recognised.")
]
Images = Annotated[str | None, typer.Option(help="Folder of the pictures that an annotation file names.")]
Whole = Annotated[bool, typer.Option("--whole", help="Use whole pictures where rows have boxes.")]


def read_options(
    column: list[str],
    level: list[str],
    label: str,
    videos: str | None,
    delimiter: str | None,
    encoding: str | None,
    quote: str | None,
    category_separator: str | None,
    feed: str | None,
    attribute: list[str] | None = None,
    format_: str | None = None,
    images: str | None = None,
    whole: bool = False,
) -> "ReadOptions":
    """Build the description of how files become rows from the options of a command.

    Raises:
        ConfigurationError: `column` is not of the form name=value.
    """
    from galleria.pipelines.readers import ReadOptions

    return ReadOptions(
        columns=parse_pairs(column, "--column"),
        levels=level,
        label=label,
        videos=videos,
        attributes=dict(name.rpartition("=")[::2] if "=" in name else (name, "") for name in attribute or ()),
        delimiter=delimiter.replace("\\t", "\t") if delimiter else None,
        encoding=encoding,
        quote=quote,
        category_separator=category_separator,
        feed=feed,
        format=format_,
        images=images,
        whole=whole,
    )
