"""Builds the search index of a product table."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from galleria.catalog.table import ProductTable, vector_column
from galleria.errors import DataError
from galleria.index.base import Vectors, write_build
from galleria.index.columns import FILTER_FIELDS, filter_columns, join_columns
from galleria.index.kinds import Plan
from galleria.index.manifest import Manifest

ROWS_AT_ONCE = 8192


def build_index(table: ProductTable, out: Path, plan: Plan | None = None, shards: int = 1) -> Manifest:
    """Index every item of this version of the table in `out`; what was the index there goes on for who has it open.

    Args:
        table: a version of a product table.
        out: folder of the index.
        plan: kind, recall and memory; by default what suits the size.
        shards: parts that are searched on their own, each of about the same size.

    Raises:
        ConfigurationError: no kind of index fits into the plan's memory.
        DataError: the table is empty.
    """
    keys, contents, addresses = table.key_map().arrays()
    if len(keys) == 0:
        raise DataError(f"{table.path} has no item to index: embed at least one product first")
    parts = []
    for number in range(shards):
        mine = np.flatnonzero(keys % np.uint64(shards) == number)
        vectors = np.empty((len(mine), table.dimension), np.float32)
        columns = []
        for start in range(0, len(mine), ROWS_AT_ONCE):
            taken = table.take(addresses[mine[start : start + ROWS_AT_ONCE]], ("embedding", *FILTER_FIELDS))
            vectors[start : start + len(taken)] = vector_column(taken)
            columns.append(filter_columns(taken))
        parts.append(Vectors(keys[mine], contents[mine], vectors, join_columns([_no_columns(table), *columns])))
    return write_build(out, parts, plan or Plan(), table.bundle_hash, table.version)


def _no_columns(table: ProductTable) -> pa.Table:
    return filter_columns(pa.schema([table.schema.field(name) for name in FILTER_FIELDS]).empty_table())
