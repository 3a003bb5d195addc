"""The contract of a package in `galleria.families`: one `FAMILY`, found by its folder's name."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError, validate_call

from galleria.errors import ConfigurationError
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe
from galleria.learn.task import Batch, Outputs, Row, Task

C = TypeVar("C", bound=BaseModel)

Labels = Mapping[str, tuple[str, ...]]
"""Names of the classes of each output, in the order of the outputs: {"product": ("p1", "p2", …)}."""


@functools.lru_cache(maxsize=32)
def index_by_name(names: tuple[str, ...]) -> Mapping[str, int]:
    """Return the index of every name."""
    return {name: index for index, name in enumerate(names)}


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
    build: Callable[[C], Task]
    example: Callable[[Row, Context[C], np.random.Generator | None], Row]
    evaluate: Callable[[Iterable[tuple[Batch, Outputs]], Labels], Mapping[str, Score]]
    present: Callable[[Mapping[str, Any], Labels], Mapping[str, Any]]
    ranks: bool = False


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


def load_recipe(family: str, recipe: str, options: Mapping[str, Any] | None = None) -> Recipe[Any]:
    """Return the run that a family's function `recipe` returns for `options`, its arguments.

    Raises:
        ConfigurationError: there is no such family or recipe, or an option is unknown, missing or of a wrong type.
    """
    load_family(family)
    module = importlib.import_module(f"galleria.families.{family}.recipes")
    if recipe not in module.__all__:
        raise ConfigurationError(
            f"family {family!r} has no recipe {recipe!r}: choose one of {', '.join(module.__all__)}"
        )
    function = getattr(module, recipe)
    try:
        run = validate_call(function)(**(options or {}))
    except ValidationError as error:
        known = ", ".join(inspect.signature(function).parameters) or "none"
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"recipe {recipe!r} of {family!r}: option {where!r}: {first['msg'].lower()} (its options: {known})"
        ) from error
    assert isinstance(run, Recipe)
    return run


def family_names() -> list[str]:
    """Return the names of the families, sorted."""
    families = importlib.import_module("galleria.families")  # by name: families import this module, not vice versa
    return sorted(module.name for module in pkgutil.iter_modules(families.__path__) if module.ispkg)
