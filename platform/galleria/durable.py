"""Makes what was written to a local disk survive a loss of power. Object stores do that by themselves."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

Sync = Callable[[Path], None]


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(files: Iterable[Path], to_disk: Sync = sync) -> None:
    """The same for files and then for the folders that name them."""
    folders: dict[Path, None] = {}
    for file in files:
        to_disk(file)
        folders[file.parent] = None
    for folder in folders:
        to_disk(folder)


def is_local(path: str) -> bool:
    """Whether a path names a local disk and no object store."""
    return "://" not in path or path.startswith("file://")
