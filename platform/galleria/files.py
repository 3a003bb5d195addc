"""Helpers for files and paths: hash, absolute path, and whether a path is local."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """Return the hex digest of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def absolute(path: str) -> str:
    """Return a path that holds in any working directory. A URL of an object store, or "", stays as it is."""
    return path if not path or "://" in path else str(Path(path).resolve())


def is_local(path: str) -> bool:
    """Return whether a path is on a local disk, not in an object store."""
    return "://" not in path or path.startswith("file://")
