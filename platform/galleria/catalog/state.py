"""The state of a catalogue at one version of its table: the current rows, and the shards that search them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.catalog.key_map import KeyMap, last_positions
from galleria.catalog.table import LOG, ProductTable, log_columns, vector_column
from galleria.errors import BundleError
from galleria.index.base import Build
from galleria.index.columns import FILTER_FIELDS, filter_columns
from galleria.index.shard import Shard
from galleria.index.view import View

logger = logging.getLogger(__name__)

BATCH_ROWS = 8192
"""Rows that are read from the table at a time."""


@dataclass(frozen=True, slots=True)
class State:
    """The catalogue at one version; a response is computed from one state.

    Attributes:
        table: that version.
        key_map: addresses of its items.
        build: the index that the shards are based on.
        shards: with the view that belongs to the version, by number.
    """

    table: ProductTable
    key_map: KeyMap
    build: Build
    shards: Mapping[int, tuple[Shard, View]]

    @classmethod
    def load(cls, table: ProductTable, build: Build, key_map: KeyMap | None = None) -> "State":
        """Return the state of a build and any version of the table; items that differ from the build's are read.

        Args:
            table: the version.
            build: an index of some version of the table.
            key_map: that of `table`, where it is known.
        """
        if build.manifest.table_id != table.table_id:
            logger.warning(
                "index %s was built for another table than %s: all items are searched without it until 'galleria index "
                "build' or the service builds it again",
                build.folder,
                table.path,
            )
        key_map = key_map or table.key_map()
        rows = key_map.arrays()
        shards = {number: _load_shard(table, build, number, rows) for number in build.bases}
        return cls(table, key_map, build, {number: (shard, shard.view) for number, shard in shards.items()})

    @property
    def version(self) -> int:
        """Version of the product table."""
        return self.table.version

    @property
    def table_id(self) -> str:
        """Identity of the product table."""
        return self.table.table_id

    @property
    def count(self) -> int:
        """Number of items."""
        return self.key_map.count

    @property
    def shard_count(self) -> int:
        """Number of shards of the index."""
        return len(self.build.manifest.shards)

    @property
    def unindexed(self) -> int:
        """Number of rows that the index does not hold yet; they are searched exactly."""
        return sum(view.rows for _, view in self.shards.values())

    def advance(self, table: ProductTable) -> "State":
        """Return the state at another version of the table. Where rows were only appended, the shards stay the same.

        Raises:
            BundleError: the table's vectors are now made with another bundle.
        """
        check_bundle(table, self.table.bundle_hash)
        added = table.added(self.table, (*LOG, "id", "embedding", *(name for name in FILTER_FIELDS if name != "id")))
        if added is None:
            return State.load(table, self.build)
        log = log_columns(added)
        keys, _, deleted, _ = log
        last = last_positions(keys)
        for number, (shard, _) in self.shards.items():
            mine = last[keys[last] % np.uint64(self.shard_count) == number]
            put = mine[~deleted[mine]]
            rows = added.take(pa.array(put))
            shard.apply(keys[put], vector_column(rows), filter_columns(rows), keys[mine[deleted[mine]]])
        views = {number: (shard, shard.view) for number, (shard, _) in self.shards.items()}
        return State(table, self.key_map.apply(*log), self.build, views)


def open_table(path: Path | str, bundle_hash: str) -> ProductTable:
    """Open the newest version of a table.

    Raises:
        DataError: there is no table.
        BundleError: its vectors were made with another bundle.
    """
    table = ProductTable(path)
    check_bundle(table, bundle_hash)
    return table


def check_bundle(table: ProductTable, bundle_hash: str) -> None:
    """Check that a table's vectors were made with this bundle.

    Raises:
        BundleError: they were made with another.
    """
    if table.bundle_hash != bundle_hash:
        raise BundleError(
            f"the vectors of {table.path} were made with bundle {table.bundle_hash[:12] or '(unknown)'}, but the "
            f"bundle in use is {bundle_hash[:12]}: run 'galleria embed' and 'galleria index build' again"
        )


def _load_shard(
    table: ProductTable,
    build: Build,
    number: int,
    rows: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]],
) -> Shard:
    """Return a shard of a build with the items of a version of the table, whose `KeyMap.arrays` are `rows`."""
    base = build.bases[number]
    keys, contents, addresses = rows
    mine = keys % np.uint64(len(build.manifest.shards)) == number
    positions = base.positions(keys[mine])
    unchanged = base.unchanged(positions, contents[mine]) & (build.manifest.table_id == table.table_id)
    outdated = np.ones(len(base.keys), bool)
    outdated[positions[unchanged]] = False
    shard = Shard(base)
    shard.apply(*_no_items(table), base.keys[outdated])
    missing, missing_addresses = keys[mine][~unchanged], addresses[mine][~unchanged]
    for start in range(0, len(missing), BATCH_ROWS):
        batch = slice(start, start + BATCH_ROWS)
        read = table.take(missing_addresses[batch], ("embedding", *FILTER_FIELDS))
        shard.apply(missing[batch], vector_column(read), filter_columns(read), np.empty(0, np.uint64))
    return shard


def _no_items(table: ProductTable) -> tuple[NDArray[np.uint64], NDArray[np.float32], pa.Table]:
    empty = pa.schema([table.schema.field(name) for name in FILTER_FIELDS]).empty_table()
    return np.empty(0, np.uint64), np.empty((0, table.dimension), np.float32), filter_columns(empty)
