"""What an index says of itself: enough to refuse it where it is damaged or does not fit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from galleria.errors import IndexDamagedError
from galleria.learn.recipe import Frozen

MANIFEST = "manifest.json"
FORMAT = 1


class Manifest(Frozen):
    """Contents of `manifest.json`.

    Attributes:
        format: version of this layout.
        files: sha256 of every file beside the manifest. FAISS files carry no checksum of their own.
        kind: FAISS factory string.
        metric: similarity; vectors are unit length, so inner product is cosine.
        dimension: length of a vector.
        count: number of vectors.
        bundle_hash: bundle that made the vectors.
        catalog_version: version of the product table that they were read from.
    """

    format: int
    files: Mapping[str, str]
    kind: str
    metric: Literal["inner_product"]
    dimension: int
    count: int
    bundle_hash: str
    catalog_version: int


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest and check every file that it lists.

    Raises:
        IndexDamagedError: missing, damaged, or of a newer format.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise IndexDamagedError(f"there is no index at {folder}: make one with 'galleria index'") from error
    except (ValidationError, OSError) as error:
        raise IndexDamagedError(f"index {folder}: {MANIFEST} cannot be read ({error}): build it again") from error
    if manifest.format < 1 or any("\0" in name for name in manifest.files):
        raise IndexDamagedError(f"index {folder}: {MANIFEST} cannot be read: build it again")
    if manifest.format > FORMAT:
        raise IndexDamagedError(
            f"index {folder} has format {manifest.format}, this galleria reads up to {FORMAT}: upgrade it"
        )
    for name, expected in manifest.files.items():
        file = folder / name
        if folder.resolve() not in file.resolve().parents:
            raise IndexDamagedError(f"index {folder}: {name!r} lies outside the index's folder")
        if not file.is_file() or sha256(file) != expected:
            raise IndexDamagedError(f"index {folder}: {name} is missing or damaged: build it again")
    return manifest


def sha256(file: Path) -> str:
    """Hex digest of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
