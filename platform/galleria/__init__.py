"""galleria: train, evaluate, index and serve visual-understanding models for catalogues.

Importing the package is cheap: the public names below are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galleria.catalog.live import LiveCatalog
    from galleria.catalog.table import ProductTable
    from galleria.catalog.writer import CatalogWriter
    from galleria.errors import GalleriaError
    from galleria.learn.bundle import Bundle
    from galleria.learn.family import Context, Family, load_family
    from galleria.learn.recipe import Recipe
    from galleria.learn.recipes import load_recipe
    from galleria.learn.task import Task

__version__ = "0.2.0"

__all__ = [
    "Bundle",
    "CatalogWriter",
    "Context",
    "Family",
    "GalleriaError",
    "LiveCatalog",
    "ProductTable",
    "Recipe",
    "Task",
    "load_family",
    "load_recipe",
]

_MODULES = {
    "Bundle": "learn.bundle",
    "CatalogWriter": "catalog.writer",
    "Context": "learn.family",
    "Family": "learn.family",
    "GalleriaError": "errors",
    "LiveCatalog": "catalog.live",
    "ProductTable": "catalog.table",
    "Recipe": "learn.recipe",
    "Task": "learn.task",
    "load_family": "learn.family",
    "load_recipe": "learn.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
