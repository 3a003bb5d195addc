"""The immutable part of a shard: a FAISS index on disk with the items' keys, checked when it is opened."""

import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.durable import make_folder, move_folder, write_atomically
from galleria.errors import DataError, IndexDamagedError
from galleria.files import sha256
from galleria.index.columns import take_columns
from galleria.index.kinds import IndexSpec, Plan, build, is_of
from galleria.index.manifest import (
    BUILDS,
    CURRENT,
    FORMAT,
    MANIFEST,
    CurrentBuild,
    Manifest,
    ShardManifest,
    read_current,
    read_manifest,
)

MAX_BUILDS = 2
"""Builds that are kept: the current one, and the one before it, which others may have open."""

ABANDONED_AFTER_S = 24 * 3600
"""Age from which an incomplete build counts as left by a process that has died."""

KEY, CONTENT = "#key", "#content"
"""Columns of an Arrow file of items that are no field of theirs."""

MAX_FAISS_LOOPS = 1_000_000
"""Maximum length of any loop when FAISS reads a file."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Items to build a shard from, in any order.

    Attributes:
        keys: `[N]`, each once.
        contents: hashes of the items' content `[N]`.
        vectors: unit vectors `[N, D]`.
        columns: `filter_columns` of the items, N rows.
    """

    keys: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    columns: pa.Table


@dataclass(frozen=True, slots=True)
class Base:
    """An open shard's immutable part; item i of every column is vector i of the index.

    Attributes:
        index: FAISS index.
        spec: its kind and how much effort a search takes.
        keys: sorted, `[N]`.
        contents: hashes of the items' content `[N]`.
        columns: what filters read.
    """

    index: Any
    spec: IndexSpec
    keys: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    columns: pa.Table

    def positions(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the positions of keys `[M]`, -1 for those that are not here."""
        if len(self.keys) == 0:
            return np.full(len(keys), -1)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[positions] == keys, positions, -1)

    def unchanged(self, positions: NDArray[np.int64], contents: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which items `[M]` are here, by their `positions`, with the same content hashes."""
        if len(self.keys) == 0:
            return np.zeros(len(positions), bool)
        unchanged: NDArray[np.bool_] = (positions >= 0) & (self.contents[positions] == contents)
        return unchanged


@dataclass(frozen=True, slots=True)
class Build:
    """An open build.

    Attributes:
        folder: of its files.
        manifest: its contents and how it was built.
        bases: its shards that were opened, by number.
    """

    folder: Path
    manifest: Manifest
    bases: dict[int, Base]


def write_build(
    folder: Path, shards: Sequence[Vectors], plan: Plan, bundle_hash: str, catalog_version: int, table_id: str = ""
) -> Manifest:
    """Build the indexes of all shards and make them the current build, atomically and durably.

    Args:
        folder: of the index.
        shards: their items.
        plan: kind, recall and memory.
        bundle_hash: the bundle that made the vectors.
        catalog_version: version of the product table that they were read from.
        table_id: identity of that table.

    Raises:
        ConfigurationError: no kind fits into the memory.
        DataError: there are no shards, or keys and vectors do not fit.
    """
    _check_shards(shards)
    name = f"{catalog_version:09d}-{uuid.uuid4().hex[:12]}"
    make_folder(folder / BUILDS)
    incomplete = folder / BUILDS / f".{name}"
    incomplete.mkdir()
    try:
        manifest = _write(incomplete, shards, plan, bundle_hash, catalog_version, table_id)
        move_folder(incomplete, folder / BUILDS / name)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
    current = CurrentBuild(build=name, manifest=sha256(folder / BUILDS / name / MANIFEST))
    write_atomically(folder / CURRENT, f"{current.model_dump_json()}\n".encode())
    _remove_old_builds(folder / BUILDS, name)
    return manifest


def open_build(folder: Path | str, bundle_hash: str, shards: Sequence[int] | None = None) -> Build:
    """Open and verify the current build.

    Args:
        folder: of the index.
        bundle_hash: the bundle that embeds the queries.
        shards: numbers of those to open; by default all.

    Raises:
        IndexDamagedError: damaged, or built from another bundle.
    """
    current = read_current(Path(folder))
    build_folder = Path(folder) / BUILDS / current.build
    manifest = read_manifest(build_folder, current.manifest)
    if manifest.bundle_hash != bundle_hash:
        raise IndexDamagedError(
            f"index {folder} was built with bundle {manifest.bundle_hash[:12]}, but the bundle in use is "
            f"{bundle_hash[:12]}: run 'galleria embed' and 'galleria index build' again"
        )
    numbers = range(len(manifest.shards)) if shards is None else shards
    return Build(build_folder, manifest, {number: _open(build_folder, manifest, number) for number in numbers})


def _check_shards(shards: Sequence[Vectors]) -> None:
    if not shards:
        raise DataError("an index has at least one shard: use 1 or more")
    for number, shard in enumerate(shards):
        if shard.vectors.shape != (len(shard.keys), shards[0].vectors.shape[1]):
            raise DataError(
                f"shard {number} has {len(shard.keys)} keys and vectors {shard.vectors.shape}, shard 0 has vectors "
                f"{shards[0].vectors.shape}: give one vector for every key, all of one length"
            )
        if not _keys_fit_shard(np.sort(shard.keys), number, len(shards)):
            raise DataError(f"shard {number} of {len(shards)} has a key twice, or the key of another shard")


def _write(
    folder: Path, shards: Sequence[Vectors], plan: Plan, bundle_hash: str, catalog_version: int, table_id: str
) -> Manifest:
    written = [_write_shard(folder, number, shard, plan) for number, shard in enumerate(shards)]
    manifest = Manifest(
        format=FORMAT,
        files={name: sha256(folder / name) for shard in written for name in (shard.vectors, shard.items)},
        metric="inner_product",
        dimension=shards[0].vectors.shape[1],
        count=sum(shard.count for shard in written),
        bundle_hash=bundle_hash,
        catalog_version=catalog_version,
        table_id=table_id,
        plan=plan,
        shards=tuple(written),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1, by_alias=True) + "\n")
    return manifest


def _write_shard(folder: Path, number: int, shard: Vectors, plan: Plan) -> ShardManifest:
    order = np.argsort(shard.keys)
    index, spec = build(np.ascontiguousarray(shard.vectors[order], np.float32), plan)
    manifest = ShardManifest(
        vectors=f"shard-{number}.faiss", items=f"shard-{number}.items.arrow", count=len(order), choice=spec
    )
    faiss.write_index(index, str(folder / manifest.vectors))
    items = take_columns(shard.columns, order)
    items = items.append_column(KEY, pa.array(shard.keys[order]))
    items = items.append_column(CONTENT, pa.array(shard.contents[order]))
    with pa.OSFile(str(folder / manifest.items), "wb") as file, pa.ipc.new_file(file, items.schema) as writer:
        writer.write_table(items.combine_chunks(), max_chunksize=max(1, len(items)))
    return manifest


def _open(folder: Path, manifest: Manifest, number: int) -> Base:
    if not 0 <= number < len(manifest.shards):
        raise IndexDamagedError(f"index {folder} has {len(manifest.shards)} shards, there is no number {number}")
    shard = manifest.shards[number]
    index = _read_vectors(folder / shard.vectors)
    try:
        items = pa.ipc.open_file(pa.memory_map(str(folder / shard.items))).read_all()
        keys, contents = items[KEY].to_numpy(), items[CONTENT].to_numpy()
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise IndexDamagedError(f"index {folder}: {shard.items} cannot be read ({error}): build it again") from error
    actual = (index.d, index.ntotal, index.metric_type, len(keys))
    expected = (manifest.dimension, shard.count, faiss.METRIC_INNER_PRODUCT, shard.count)
    kind, effort = shard.spec.kind, shard.spec.effort
    if actual != expected or not is_of(index, kind) or (effort == 0) != (kind == "Flat"):
        raise IndexDamagedError(f"index {folder}: its manifest does not fit its vectors: build it again")
    if (keys.dtype, contents.dtype) != (np.uint64, np.uint64) or not _keys_fit_shard(
        keys, number, len(manifest.shards)
    ):
        raise IndexDamagedError(f"index {folder}: {shard.items} has the keys of another shard: build it again")
    return Base(index, shard.spec, keys, contents, items.drop_columns([KEY, CONTENT]))


def _read_vectors(file: Path) -> Any:
    """Map the FAISS index of a file into memory, with limits on what a damaged one may make FAISS allocate."""
    faiss.set_deserialization_vector_byte_limit(max(1, file.stat().st_size))
    faiss.set_deserialization_loop_limit(MAX_FAISS_LOOPS)
    try:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except RuntimeError as error:
        raise IndexDamagedError(f"index {file.parent}: {file.name} is not a FAISS index: build it again") from error


def _keys_fit_shard(keys: NDArray[np.uint64], number: int, shards: int) -> bool:
    """Return whether keys are in order, each once, and those of this shard."""
    return bool((keys[1:] > keys[:-1]).all() and (keys % np.uint64(shards) == number).all())


def _remove_old_builds(builds: Path, name: str) -> None:
    others = sorted((path.stat().st_mtime, path) for path in builds.iterdir() if path.name != name)
    complete = [path for _, path in others if not path.name.startswith(".")]
    limit = time.time() - ABANDONED_AFTER_S
    abandoned = [path for written, path in others if path not in complete and written < limit]
    for path in [*complete[: max(0, len(complete) - MAX_BUILDS + 1)], *abandoned]:
        shutil.rmtree(path, ignore_errors=True)
