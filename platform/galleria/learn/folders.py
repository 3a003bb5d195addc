"""Puts a finished folder in its place."""

import shutil
from pathlib import Path


def replace_folder(made: Path, place: Path) -> None:
    """Move `made` to `place` (same file system); a folder that is there already goes away first."""
    old = made.with_name(f"{made.name}-old")
    if place.exists():
        place.rename(old)
    try:
        made.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
