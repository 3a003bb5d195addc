"""A shard: an immutable FAISS index on disk, checked when it is opened and searched in memory."""

import tempfile
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from galleria.errors import DataError, IndexDamagedError
from galleria.index.manifest import FORMAT, MANIFEST, Manifest, read_manifest, sha256
from galleria.learn.folders import replace_folder

VECTORS = "vectors.faiss"
UNIT_TOLERANCE = 1e-3


class Shard:
    """An open shard. A result's place is the row of its vector in the product table's version."""

    def __init__(self, folder: Path | str, bundle_hash: str, catalog_version: int) -> None:
        """Open and verify a shard.

        Args:
            folder: what `write_shard` wrote.
            bundle_hash: the bundle that will embed the queries.
            catalog_version: version of the product table that answers will be read from.

        Raises:
            IndexDamagedError: damaged, or built from another bundle or table version.
        """
        folder = Path(folder)
        self.manifest = read_manifest(folder)
        if self.manifest.bundle_hash != bundle_hash:
            raise IndexDamagedError(
                f"index {folder} was built with bundle {self.manifest.bundle_hash[:12]}, but the bundle in use is "
                f"{bundle_hash[:12]}: run 'galleria embed' and 'galleria index' again"
            )
        if self.manifest.catalog_version != catalog_version:
            raise IndexDamagedError(
                f"index {folder} was built from version {self.manifest.catalog_version} of the product table, which "
                f"is at version {catalog_version}: run 'galleria index' again"
            )
        if VECTORS not in self.manifest.files:
            raise IndexDamagedError(f"index {folder}: its manifest does not list {VECTORS}: build it again")
        try:
            self._index = faiss.read_index(str(folder / VECTORS))
        except RuntimeError as error:
            raise IndexDamagedError(f"index {folder}: {VECTORS} is no FAISS index: build it again") from error
        found = (self._index.d, self._index.ntotal, self._index.metric_type)
        if found != (self.manifest.dimension, self.manifest.count, faiss.METRIC_INNER_PRODUCT):
            raise IndexDamagedError(f"index {folder}: its manifest does not fit its vectors: build it again")

    def search(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and places `[B, min(k, count)]` of the nearest vectors, best first.

        Raises:
            DataError: a vector has another length, is zero, or is not finite; `k` is below 1.
        """
        if k < 1:
            raise DataError(f"k={k} asks for no result: use 1 or more")
        if vectors.ndim != 2 or vectors.shape[1] != self.manifest.dimension:
            raise DataError(
                f"the vector has {vectors.shape[-1]} values, the index has {self.manifest.dimension}: "
                "embed the query with the model that the index was built with"
            )
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise DataError("the vector is zero or not finite: send finite values that are not all zero")
        similarities, places = self._index.search(
            np.ascontiguousarray(vectors / norms, dtype=np.float32), min(k, self.manifest.count)
        )
        return similarities, places


def write_shard(folder: Path | str, vectors: NDArray[np.float32], bundle_hash: str, catalog_version: int) -> Manifest:
    """Build an exact inner-product index of unit vectors `[N, D]`; the folder appears whole or not at all.

    Raises:
        DataError: there is no vector, or one is not of unit length.
    """
    if len(vectors) == 0:
        raise DataError("there is no vector to index: embed at least one product first")
    squares = np.einsum("nd,nd->n", vectors, vectors)
    odd = np.flatnonzero(~(np.abs(squares - 1) < UNIT_TOLERANCE))
    if len(odd):
        raise DataError(f"{len(odd)} vectors are not of unit length (first: row {odd[0]}): embed the products again")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "shard"
        made.mkdir()
        faiss.write_index(index, str(made / VECTORS))
        manifest = Manifest(
            format=FORMAT,
            files={VECTORS: sha256(made / VECTORS)},
            kind="Flat",
            metric="inner_product",
            dimension=vectors.shape[1],
            count=len(vectors),
            bundle_hash=bundle_hash,
            catalog_version=catalog_version,
        )
        (made / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        replace_folder(made, folder)
    return manifest
