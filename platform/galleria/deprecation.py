"""Accepts options under their old names for one release, with a warning."""

import warnings
from collections.abc import Mapping
from typing import Any


def rename_deprecated(values: Any, names: Mapping[str, str]) -> Any:
    """Give `values`, where it is a mapping, with every old name replaced by its new one.

    Args:
        values: options as they were written; anything but a mapping is returned as it is.
        names: old name → new name.

    Raises:
        ValueError: an option is given under both names.
    """
    if not isinstance(values, Mapping):
        return values
    renamed = dict(values)
    for old, new in names.items():
        if old not in renamed:
            continue
        if new in renamed:
            raise ValueError(f"{old!r} is the old name of {new!r}: give {new!r} alone")
        warnings.warn(f"{old!r} is now {new!r}; the old name will be removed in 0.3", FutureWarning, stacklevel=2)
        renamed[new] = renamed.pop(old)
    return renamed
