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

ROWS_PER_READ = 8192


def build_index(table: ProductTable, out: Path, plan: Plan | None = None, shards: int = 1) -> Manifest:
    """Index every item of this version of the table in `out`; processes that have the previous index open keep it.

    Args:
        table: a version of a product table.
        out: folder of the index.
        plan: kind, recall and memory; by default chosen by the size.
        shards: number of shards of about the same size, which are searched independently.

    Raises:
        ConfigurationError: no kind of index fits into the plan's memory.
        DataError: the table is empty.
    """
    keys, contents, addresses = table.key_map().arrays()
    if len(keys) == 0:
        raise DataError(f"{table.path} has no item to index: embed at least one product first")
    parts = []
    for number in range(shards):
        members = np.flatnonzero(keys % np.uint64(shards) == number)
        vectors = np.empty((len(members), table.dimension), np.float32)
        columns = []
        for start in range(0, len(members), ROWS_PER_READ):
            rows = table.take(addresses[members[start : start + ROWS_PER_READ]], ("embedding", *FILTER_FIELDS))
            vectors[start : start + len(rows)] = vector_column(rows)
            columns.append(filter_columns(rows))
        parts.append(Vectors(keys[members], contents[members], vectors, join_columns([_no_columns(table), *columns])))
    return write_build(out, parts, plan or Plan(), table.bundle_hash, table.version, table.table_id)


def _no_columns(table: ProductTable) -> pa.Table:
    return filter_columns(pa.schema([table.schema.field(name) for name in FILTER_FIELDS]).empty_table())
