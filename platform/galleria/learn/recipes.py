"""Finds recipes, a family's or those of a file of one's own, and changes their fields by name."""

import difflib
import importlib
import importlib.util
import inspect
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, validate_call
from pydantic.fields import FieldInfo

from galleria.errors import ConfigurationError
from galleria.learn.family import load_family
from galleria.learn.recipe import Recipe

RecipeFunction = Callable[..., Recipe[Any]]


@dataclass(frozen=True)
class RecipeField:
    """A field of a family's recipes: its dotted name, type and description, and its default as text or ""."""

    name: str
    type: str
    default: str
    description: str


def recipe_functions(family: str) -> dict[str, RecipeFunction]:
    """Return the functions of a family that return recipes, by name.

    Raises:
        ConfigurationError: there is no such family.
    """
    load_family(family)
    module = importlib.import_module(f"galleria.families.{family}.recipes")
    return {name: getattr(module, name) for name in module.__all__}


def load_recipe(
    family: str, recipe: str, options: Mapping[str, Any] | None = None, fields: Mapping[str, str] | None = None
) -> Recipe[Any]:
    """Return the run that a function returns for `options`, its arguments, with `fields` changed.

    Args:
        family: name of the family.
        recipe: name of one of its recipes, or `file.py:function`, a function in a file of one's own.
        options: arguments of the function.
        fields: dotted name of a field → its value, as JSON or as text: `{"optimization.learning_rate": "3e-4"}`.

    Raises:
        ConfigurationError: there is no such family, recipe or field, or a value is missing or of a wrong type.
    """
    file, colon, name = recipe.rpartition(":")
    function = _from_file(file, name) if colon else _from_family(family, recipe)
    try:
        run = validate_call(function)(**(options or {}))
    except ValidationError as error:
        known = ", ".join(inspect.signature(function).parameters) or "none"
        where, message = _first(error)
        raise ConfigurationError(
            f"recipe {recipe!r} of {family!r}: option {where!r}: {message} (its options: {known})"
        ) from error
    if not isinstance(run, Recipe) or run.family != family:
        returned = f"one of {run.family!r}" if isinstance(run, Recipe) else repr(run)
        raise ConfigurationError(f"{recipe!r} must return a recipe of {family!r}, not {returned}")
    return with_fields(run, fields or {})


def with_fields(run: Recipe[Any], fields: Mapping[str, str]) -> Recipe[Any]:
    """Return the run with other values of the fields of these dotted names.

    Raises:
        ConfigurationError: there is no such field, or its value is not valid.
    """
    if not fields:
        return run
    changed = run.model_dump()
    for name, value in fields.items():
        node: Any = changed
        *parents, last = name.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise _unknown_field(name, run)
        node[last] = _parsed(value)
    try:
        return _model(run.family).model_validate(changed)
    except ValidationError as error:
        where, message = _first(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise _unknown_field(where, run) from error
        raise ConfigurationError(f"{where}={error.errors()[0]['input']!r} of the recipe: {message}") from error


def recipe_fields(family: str) -> list[RecipeField]:
    """Return every field of a family's recipes that `with_fields` can change.

    Raises:
        ConfigurationError: there is no such family.
    """
    return sorted(_fields(_model(family)), key=lambda field: field.name.startswith("model."))


def _model(family: str) -> type[Recipe[Any]]:
    config = load_family(family).config
    return Recipe[config]  # type: ignore[valid-type]


def _from_family(family: str, recipe: str) -> RecipeFunction:
    functions = recipe_functions(family)
    if recipe not in functions:
        raise ConfigurationError(
            f"family {family!r} has no recipe {recipe!r}: choose one of {', '.join(functions)}, or file.py:function"
        )
    return functions[recipe]


def _from_file(file: str, name: str) -> RecipeFunction:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file) if Path(file).is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"there is no Python file {file!r}: name the recipe as file.py:function")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigurationError(f"{file!r} has no function {name!r}: name the recipe as file.py:function")
    return function  # type: ignore[no-any-return]


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _first(error: ValidationError) -> tuple[str, str]:
    """Return where the first error is, and what is wrong."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].lower()


def _unknown_field(name: str, run: Recipe[Any]) -> ConfigurationError:
    names = [field.name for field in recipe_fields(run.family)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0)
    return ConfigurationError(
        f"recipes of {run.family!r} have no field {name!r}: did you mean {', '.join(near)}? "
        f"`galleria recipes {run.family}` lists them"
    )


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[RecipeField]:
    for name, field in model.model_fields.items():
        nested = _nested(field)
        if nested is not None:
            yield from _fields(nested, f"{prefix}{name}.")
        elif prefix or name != "family":
            default = field.get_default(call_default_factory=True)
            shown = "" if field.is_required() else json.dumps(default, default=list)
            yield RecipeField(prefix + name, _type_name(field.annotation), shown, field.description or "")


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field holds, or may hold."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
            return kind
    return None


def _type_name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not get_args(annotation)
    return str(annotation.__name__ if plain else re.sub(r"\b[a-z.]+\.(?=[A-Z])", "", str(annotation)))
