"""The contract of a package in `galleria.families`: one `FAMILY`, found by its folder's name."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from galleria.errors import ConfigurationError
from galleria.learn.metrics.score import Score
from galleria.learn.types import Batch, Outputs, Row

if TYPE_CHECKING:
    from galleria.learn.task import Task

C = TypeVar("C", bound=BaseModel)

Labels = Mapping[str, tuple[str, ...]]
"""Names of the classes of each output, in the order of the outputs: {"product": ("p1", "p2", …)}."""


def index_by_name(names: tuple[str, ...]) -> Mapping[str, int]:
    """Return the index of every name. It is made once for a tuple, so that it can be called for every row."""
    return _index_by_name(_SameObject(names))


class _SameObject:
    """A key that is equal for the same object only: to hash a million names takes as long as to index them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __hash__(self) -> int:
        return id(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObject) and self.names is other.names


@functools.lru_cache(maxsize=32)
def _index_by_name(key: _SameObject) -> Mapping[str, int]:
    return {name: index for index, name in enumerate(key.names)}


@dataclass(frozen=True)
class Context(Generic[C]):
    """What a model needs to read a row, besides its weights; it is saved in the bundle.

    Attributes:
        config: the model's configuration.
        labels: names of the classes.
        files: small files that preprocessing reads (a tokenizer), by name.
    """

    config: C
    labels: Labels = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Family(Generic[C]):
    """The contract of a family of models: the rest of the platform knows nothing else of it.

    Attributes:
        name: the folder's name.
        config: frozen pydantic model of the network's options.
        schema: columns of a row; a field that is not nullable is required.
        context: (config, training rows) → context; learns labels and files, completes the config.
        build: context's config → network with fresh or pretrained weights.
        example: (row, context, generator) → fixed-size arrays. With a generator the row is augmented for
            training. Reads whichever of its columns the row has, so the SAME function serves training,
            evaluation, embedding jobs and queries. Raises `DataError` for a row that cannot be used.
        evaluate: (batch, outputs) pairs of one data set → named scores.
        ranks: `evaluate` ranks pictures against a gallery. Gallery rows of other splits are then passed to it as
            distractors, marked by the batch's boolean `evaluated`.
        present: (outputs of ONE example, labels) → plain values for a response.
    """

    name: str
    config: type[C]
    schema: pa.Schema
    context: Callable[[C, Iterable[Row]], Context[C]]
    build: Callable[[C], "Task"]
    example: Callable[[Row, Context[C], np.random.Generator | None], Row]
    evaluate: Callable[[Iterable[tuple[Batch, Outputs]], Labels], Mapping[str, Score]]
    present: Callable[[Mapping[str, Any], Labels], Mapping[str, Any]]
    ranks: bool = False


def deferred(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports `name` from `module` when it is called first, and calls it.

    For `build` and `evaluate`, which need PyTorch: a gateway that runs its networks in ONNX Runtime never imports it,
    and so starts in a fraction of the time.
    """
    return functools.partial(_call, module, name)


def _call(module: str, name: str, *values: Any) -> Any:
    return getattr(importlib.import_module(module), name)(*values)


def load_family(name: str) -> Family[Any]:
    """Return the family of the package `galleria.families.<name>`.

    Raises:
        ConfigurationError: there is no such family.
    """
    module = f"galleria.families.{name}"
    if name not in family_names():
        raise ConfigurationError(f"there is no family {name!r}: choose one of {', '.join(family_names())}")
    family = importlib.import_module(module).FAMILY
    assert isinstance(family, Family), f"{module}.FAMILY is not a Family"
    return family


def family_names() -> list[str]:
    """Return the names of the families, sorted."""
    families = importlib.import_module("galleria.families")  # by name: families import this module, not vice versa
    return sorted(module.name for module in pkgutil.iter_modules(families.__path__) if module.ispkg)
