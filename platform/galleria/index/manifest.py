"""The manifest of an index: what it takes to detect that one is damaged or does not belong to its bundle.

An index is a folder of builds and `current.json`, which names the current one. A build never changes; a new one is
written to its own folder and named when it is complete, so that processes with the old one open go on using it::

    index/current.json
    index/builds/000042-1f0c…/manifest.json  shard-0.faiss  shard-0.items.arrow  …
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from galleria.errors import IndexDamagedError
from galleria.files import sha256
from galleria.index.kinds import IndexSpec, Plan
from galleria.learn.recipe import Frozen

CURRENT = "current.json"
BUILDS = "builds"
MANIFEST = "manifest.json"
FORMAT = 2


class ShardManifest(Frozen):
    """One shard of a build: the items whose key leaves its number when divided by the number of shards.

    Attributes:
        vectors: name of the FAISS file.
        items: name of the Arrow file with the items' keys and the columns that filters read, in the same order.
        count: number of vectors.
        spec: kind of the index, and why; `choice` in the file.
    """

    vectors: str
    items: str
    count: int
    spec: IndexSpec = Field(alias="choice")


class Manifest(Frozen):
    """Contents of `manifest.json`.

    Attributes:
        format: version of this layout.
        files: sha256 of every other file of the build. FAISS files carry no checksum of their own.
        metric: similarity; vectors are unit length, so inner product is cosine.
        dimension: length of a vector.
        count: number of vectors.
        bundle_hash: bundle that made the vectors.
        catalog_version: version of the product table that they were read from.
        table_id: identity of that table.
        plan: the requirements.
        shards: in order.
    """

    format: int
    files: Mapping[str, str]
    metric: Literal["inner_product"]
    dimension: int
    count: int
    bundle_hash: str
    catalog_version: int
    table_id: str = ""
    plan: Plan
    shards: tuple[ShardManifest, ...]


class CurrentBuild(Frozen):
    """Contents of `current.json`: the name of the current build, and the sha256 of its manifest."""

    build: str
    manifest: str


def current_build(folder: Path) -> Path:
    """Return the folder of the current build.

    Raises:
        IndexDamagedError: there is no index, or it cannot be read.
    """
    return folder / BUILDS / read_current(folder).build


def read_current(folder: Path) -> CurrentBuild:
    """Read which build is the current one.

    Raises:
        IndexDamagedError: there is no index, or it cannot be read.
    """
    try:
        current = CurrentBuild.model_validate_json((folder / CURRENT).read_bytes())
    except FileNotFoundError as error:
        raise IndexDamagedError(f"there is no index at {folder}: make one with 'galleria index build'") from error
    except (ValidationError, OSError) as error:
        raise IndexDamagedError(f"index {folder}: {CURRENT} cannot be read ({error}): build it again") from error
    name = current.build
    if not name or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        raise IndexDamagedError(f"index {folder}: {CURRENT} names {name!r}, which is not a valid build: build it again")
    return current


def current_manifest(folder: Path) -> Manifest:
    """Read the manifest of the current build, and check every file. Raises as `read_manifest`."""
    current = read_current(folder)
    return read_manifest(folder / BUILDS / current.build, current.manifest)


def read_manifest(build: Path, digest: str) -> Manifest:
    """Read a build's manifest, which must have this sha256, and check every file that it lists.

    Raises:
        IndexDamagedError: the build is missing, damaged, or of another format.
    """
    try:
        content = (build / MANIFEST).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise IndexDamagedError(f"index {build}: {MANIFEST} is damaged: build it again")
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError as error:
        raise IndexDamagedError(f"index {build}: {MANIFEST} is missing: build it again") from error
    except (ValidationError, OSError) as error:
        raise IndexDamagedError(f"index {build}: {MANIFEST} cannot be read ({error}): build it again") from error
    if manifest.format != FORMAT or any("\0" in name for name in manifest.files):
        raise IndexDamagedError(
            f"index {build} has format {manifest.format}, this galleria reads {FORMAT}: build it again"
        )
    if not manifest.shards or {name for shard in manifest.shards for name in (shard.vectors, shard.items)} != set(
        manifest.files
    ):
        raise IndexDamagedError(f"index {build}: its manifest does not list its shards' files: build it again")
    if manifest.count != sum(shard.count for shard in manifest.shards):
        raise IndexDamagedError(f"index {build}: its manifest does not fit its shards: build it again")
    for name, expected in manifest.files.items():
        file = build / name
        if build.resolve() not in file.resolve().parents:
            raise IndexDamagedError(f"index {build}: {name!r} lies outside the index's folder")
        if _digest(file) != expected:
            raise IndexDamagedError(f"index {build}: {name} is missing or damaged: build it again")
    return manifest


def _digest(file: Path) -> str | None:
    try:
        return sha256(file) if file.is_file() else None
    except OSError:
        return None
