"""A catalogue that follows its table: searches see every commit, without a restart."""

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.background import Background
from galleria.catalog.items import FIELDS, item_key
from galleria.catalog.key_map import KeyMap, last_positions
from galleria.catalog.table import LOG, ProductTable, log_columns, vector_column
from galleria.errors import BundleError, GalleriaError, IndexDamagedError
from galleria.index.base import Build, open_build
from galleria.index.columns import FILTER_FIELDS, filter_columns
from galleria.index.filters import Filter
from galleria.index.manifest import current_build
from galleria.index.shard import Neighbor, Shard
from galleria.index.view import View

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.02
"""Interval of looking for a newer version of a table on a local disk; one look costs about .03 ms."""

REMOTE_POLL_INTERVAL_S = 0.2
"""The same for a table in an object store."""

BATCH_ROWS = 8192


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

    @property
    def version(self) -> int:
        """Version of the product table."""
        return self.table.version

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


class LiveCatalog:
    """Searches and reads a product table through its index, as of the newest version that it has seen."""

    def __init__(
        self,
        table: Path | str,
        index: Path | str,
        bundle_hash: str,
        shards: Sequence[int] | None = None,
        max_versions: int = 1,
    ) -> None:
        """Open both, and catch up with the table.

        Args:
            table: a product table.
            index: folder of an index that was built from some version of it.
            bundle_hash: the bundle that embeds the queries.
            shards: numbers of the shards to hold; by default all.
            max_versions: number of latest versions that `state_at` can return.

        Raises:
            DataError: there is no table.
            BundleError: the table's vectors were made with another bundle.
            IndexDamagedError: the index is damaged, or belongs to another bundle.
        """
        self._index = Path(index)
        self._shard_numbers = shards
        self._bundle_hash = bundle_hash
        opened = open_table(table, bundle_hash)
        build = open_build(index, bundle_hash, shards)
        if build.manifest.dimension != opened.dimension:
            raise IndexDamagedError(
                f"index {index} has vectors of {build.manifest.dimension} values, table {table} of {opened.dimension}: "
                "run 'galleria index build' again"
            )
        self._rejected_build = ""
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._follower: Background | None = None
        self.state = self._rebuilt(opened, build, None)
        self._max_versions = max_versions
        self._states = OrderedDict({self.state.version: self.state})

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.state.table.dimension

    def follow(self, poll_interval_s: float | None = None) -> None:
        """Refresh in a background thread, every `poll_interval_s` seconds, until `close`."""
        interval = poll_interval_s or (
            POLL_INTERVAL_S if "://" not in self.state.table.path else REMOTE_POLL_INTERVAL_S
        )

        def run() -> None:
            while not self._ended.wait(interval):
                try:
                    self.refresh()
                except Exception:  # the last good version stays in use
                    logger.exception("the catalogue could not follow its table; version %d stays", self.state.version)
                    self._ended.wait(1)

        self._follower = Background("catalogue", run, self._ended.set)

    def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.end()

    def refresh(self) -> State:
        """Catch up with the newest version of the table and the newest build of the index; return the state."""
        with self._writing:
            state = self.state
            if state.table.newest != state.version:
                self._publish(self._advanced(state, state.table.latest()))
        build = self._newer_build()  # takes long: searches go on, and so does `state_at`
        if build is not None:
            state = self._rebuilt(self.state.table, build, self.state.key_map)
            with self._writing:
                if state.version != self.state.version:
                    state = self._advanced(state, self.state.table)
                self._publish(state)
        return self.state

    def wait_for(self, version: int, timeout_s: float) -> State | None:
        """Return the state as soon as it has reached a version, or None after the timeout."""
        with self._changed:
            reached = self._changed.wait_for(lambda: self.state.version >= version, timeout_s)
        return self.state if reached else None

    def state_at(self, version: int) -> State | None:
        """Return the state at exactly this version, catching up with a later one; None for an earlier one not kept.

        Raises:
            DataError: the table has no such version.
        """
        state = self._states.get(version)
        if state is not None:
            return state
        with self._writing:
            if version > self.state.version:
                self._publish(self._advanced(self.state, self.state.table.at(version)))
            return self._states.get(version)

    def search(
        self, vectors: NDArray[np.float32], k: int, allowed: Filter | None = None, state: State | None = None
    ) -> list[list[Neighbor]]:
        """Return the nearest items of every query in all shards, as `Shard.search` does."""
        state = state or self.state
        results = [shard.search(vectors, k, allowed, view) for shard, view in state.shards.values()]
        if len(results) == 1:
            return results[0]
        return [
            sorted(itertools.chain.from_iterable(lists), key=lambda neighbor: (-neighbor.score, neighbor.key))[:k]
            for lists in zip(*results, strict=True)
        ]

    def fetch(
        self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: State | None = None
    ) -> list[dict[str, Any]]:
        """Return the fields of the items that exist, each with its id, in the order of `keys`."""
        state = state or self.state
        return state.table.rows([entry.address for _, entry in state.key_map.find(keys)], columns)

    def contents(self, keys: Sequence[int], state: State | None = None) -> list[tuple[int, int]]:
        """Return the keys that exist, each with a hash of the item's content, which changes with its fields."""
        state = state or self.state
        return state.key_map.contents_of(keys)

    def item(
        self, item_id: str, columns: Sequence[str] = FIELDS, state: State | None = None
    ) -> Mapping[str, Any] | None:
        """Return the fields of one item, or None."""
        rows = self.fetch([item_key(item_id)], columns, state)
        return rows[0] if rows and rows[0]["id"] == item_id else None

    def _publish(self, state: State) -> None:
        if any(state.shards[number][0] is not shard for number, (shard, _) in self.state.shards.items()):
            self._states.clear()  # they keep the previous shards in memory
        self._states[state.version] = state
        while len(self._states) > self._max_versions:
            self._states.popitem(last=False)
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def _advanced(self, state: State, table: ProductTable) -> State:
        added = table.added(state.table, (*LOG, "id", "embedding", *(name for name in FILTER_FIELDS if name != "id")))
        if added is None or table.bundle_hash != self._bundle_hash:
            check_bundle(table, self._bundle_hash)
            return self._rebuilt(table, state.build, None)
        columns = log_columns(added)
        key_map = state.key_map.apply(*columns)
        keys, _, deleted, _ = columns
        last = last_positions(keys)
        for number, (shard, _) in state.shards.items():
            mine = last[keys[last] % np.uint64(state.shard_count) == number]
            put = mine[~deleted[mine]]
            rows = added.take(pa.array(put))
            shard.apply(keys[put], vector_column(rows), filter_columns(rows), keys[mine[deleted[mine]]])
        return State(
            table, key_map, state.build, {number: (shard, shard.view) for number, (shard, _) in state.shards.items()}
        )

    def _rebuilt(self, table: ProductTable, build: Build, key_map: KeyMap | None) -> State:
        """Return the state of a build and any version of the table; items that differ from the build's are read."""
        key_map = key_map or table.key_map()
        keys, contents, addresses = key_map.arrays()
        shards = {}
        for number, base in build.bases.items():
            mine = keys % np.uint64(len(build.manifest.shards)) == number
            positions = base.positions(keys[mine])
            same = base.unchanged(positions, contents[mine])
            shard = Shard(base)
            outdated = np.ones(len(base.keys), bool)
            outdated[positions[same]] = False
            shard.apply(*_no_items(table), base.keys[outdated])
            missing, missing_addresses = keys[mine][~same], addresses[mine][~same]
            for start in range(0, len(missing), BATCH_ROWS):
                rows = table.take(missing_addresses[start : start + BATCH_ROWS], ("embedding", *FILTER_FIELDS))
                shard.apply(
                    missing[start : start + BATCH_ROWS],
                    vector_column(rows),
                    filter_columns(rows),
                    np.empty(0, np.uint64),
                )
            shards[number] = (shard, shard.view)
        return State(table, key_map, build, shards)

    def _newer_build(self) -> Build | None:
        """Return the current build if it is another and intact; log a damaged one once, and do not use it."""
        path = ""
        try:
            folder = current_build(self._index)
            path = str(folder)
            if folder == self.state.build.folder or path == self._rejected_build:
                return None
            build = open_build(self._index, self._bundle_hash, self._shard_numbers)
            if self._shard_numbers is not None and len(build.manifest.shards) != self.state.shard_count:
                raise IndexDamagedError(
                    f"index {self._index} has {len(build.manifest.shards)} shards now, and had "
                    f"{self.state.shard_count}: start the service again, or build it as it was"
                )
        except GalleriaError as error:
            if self._rejected_build != (path or str(error)):
                self._rejected_build = path or str(error)
                logger.error("the new index is not used, the previous one stays in use: %s", error)
            return None
        self._rejected_build = ""
        return build


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


def _no_items(table: ProductTable) -> tuple[NDArray[np.uint64], NDArray[np.float32], pa.Table]:
    empty = pa.schema([table.schema.field(name) for name in FILTER_FIELDS]).empty_table()
    return np.empty(0, np.uint64), np.empty((0, table.dimension), np.float32), filter_columns(empty)
