"""The product table: one Lance dataset of pictures with their fields and vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import DataError

BUNDLE_HASH = b"bundle_hash"
"""Schema metadata: hash of the bundle that made the vectors."""

FIELDS = ("title", "text", "category", "product_id", "source")
"""Columns of an item that answers carry, where the table has them."""


def table_schema(dimension: int, bundle_hash: str) -> pa.Schema:
    """Columns of a product table whose vectors have `dimension` float32 values."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image", pa.binary()),
            pa.field("title", pa.string()),
            pa.field("text", pa.string()),
            pa.field("category", pa.list_(pa.string())),
            pa.field("product_id", pa.string()),
            pa.field("source", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False),
        ],
        metadata={BUNDLE_HASH: bundle_hash.encode()},
    )


class ProductTable:
    """One version of a product table. Opening it again sees later versions."""

    def __init__(self, path: Path | str) -> None:
        """Open the newest version.

        Raises:
            DataError: there is no product table at `path`.
        """
        try:
            self._dataset = lance.dataset(str(path))
        except (ValueError, OSError) as error:
            raise DataError(f"there is no product table at {path}: make one with 'galleria embed'") from error
        self.path = str(path)

    @classmethod
    def write(cls, path: Path | str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> "ProductTable":
        """Write a table as one commit; where one exists this becomes its next version."""
        try:
            lance.dataset(str(path))
            mode = "overwrite"
        except (ValueError, OSError):
            mode = "create"
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(path), mode=mode)
        return cls(path)

    @property
    def version(self) -> int:
        """Number of this version; every commit adds one."""
        return int(self._dataset.version)

    @property
    def bundle_hash(self) -> str:
        """Hash of the bundle that made the vectors."""
        return str((self._dataset.schema.metadata or {}).get(BUNDLE_HASH, b"").decode())

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def ids(self) -> Iterator[str]:
        """All ids, in the table's order."""
        for batch in self._dataset.to_batches(columns=["id"]):
            yield from batch["id"].to_pylist()

    def vectors(self) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
        """All ids `[N]` and vectors `[N, D]`, in the table's order."""
        table = self._dataset.to_table(columns=["id", "embedding"])
        column = table["embedding"].combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        return np.asarray(table["id"].to_pylist(), dtype=str), vectors

    def rows(self, places: Sequence[int], columns: Sequence[str] = FIELDS) -> list[Mapping[str, Any]]:
        """Rows by place in the table's order, each with its id."""
        taken: list[Mapping[str, Any]] = self._dataset.take(list(places), columns=["id", *columns]).to_pylist()
        return taken
