"""Builds the search index of a product table."""

from pathlib import Path

from galleria.catalog.table import ProductTable
from galleria.index.manifest import Manifest
from galleria.index.shard import write_shard


def build_index(table: ProductTable, out: Path) -> Manifest:
    """Index every vector of this version of the table in `out`.

    Raises:
        DataError: the table is empty.
    """
    _, vectors = table.vectors()
    return write_shard(out, vectors, table.bundle_hash, table.version)
