"""A catalogue that follows its table: what is committed is found, what is deleted is gone, without a restart."""

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
"""How often the table is asked for a newer version; the question costs some .03 ms on a local disk."""

REMOTE_POLL_INTERVAL_S = 0.2
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class State:
    """The catalogue at one version: all of an answer comes from one state.

    Attributes:
        table: that version.
        key_map: where its items lie.
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
        """How many shards the index has."""
        return len(self.build.manifest.shards)

    @property
    def unindexed(self) -> int:
        """Rows that are searched exactly, since the index does not hold them yet."""
        return sum(view.rows for _, view in self.shards.values())


class LiveCatalog:
    """Searches and reads a product table through its index, as of the newest version that it has seen."""

    def __init__(
        self,
        table: Path | str,
        index: Path | str,
        bundle_hash: str,
        shards: Sequence[int] | None = None,
        recent: int = 1,
    ) -> None:
        """Open both, and catch up with the table.

        Args:
            table: a product table.
            index: folder of an index that was built from some version of it.
            bundle_hash: the bundle that embeds the queries.
            shards: numbers of the shards to hold; by default all.
            recent: versions that `state_at` still gives when the newest is another.

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
        self._refused = ""
        self._changed = threading.Condition()
        self._one = threading.Lock()
        self._ended = threading.Event()
        self._follower: Background | None = None
        self.state = self._rebuilt(opened, build, None)
        self._max_states = recent
        self._recent = OrderedDict({self.state.version: self.state})

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.state.table.dimension

    def follow(self, seconds: float | None = None) -> None:
        """Keep up with the table in a thread of its own until `close`, by a look every so many seconds."""
        pause = seconds or (POLL_INTERVAL_S if "://" not in self.state.table.path else REMOTE_POLL_INTERVAL_S)

        def run() -> None:
            while not self._ended.wait(pause):
                try:
                    self.refresh()
                except Exception:  # the last good version goes on answering
                    logger.exception("the catalogue could not follow its table; version %d stays", self.state.version)
                    self._ended.wait(1)

        self._follower = Background("catalogue", run, self._ended.set)

    def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.end()

    def refresh(self) -> State:
        """Catch up with the newest version, and with a newer build of the index."""
        with self._one:
            state = self.state
            if state.table.newest != state.version:
                self._publish(self._advanced(state, state.table.latest()))
        build = self._newer_build()  # takes long, and nobody waits for it
        if build is not None:
            state = self._rebuilt(self.state.table, build, self.state.key_map)
            with self._one:
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
        """The state at this very version: one ahead is caught up with; None for one before that is not kept.

        Raises:
            DataError: the table has no such version.
        """
        kept = self._recent.get(version)
        if kept is not None:
            return kept
        with self._one:
            if version > self.state.version:
                self._publish(self._advanced(self.state, self.state.table.at(version)))
            return self._recent.get(version)

    def search(
        self, vectors: NDArray[np.float32], k: int, allowed: Filter | None = None, state: State | None = None
    ) -> list[list[Neighbor]]:
        """As `Shard.search`, over all shards."""
        state = state or self.state
        answers = [shard.search(vectors, k, allowed, view) for shard, view in state.shards.values()]
        if len(answers) == 1:
            return answers[0]
        return [
            sorted((found for part in parts for found in part), key=lambda found: (-found.score, found.key))[:k]
            for parts in zip(*answers, strict=True)
        ]

    def fetch(
        self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: State | None = None
    ) -> list[dict[str, Any]]:
        """Fields of items by key, each with its id."""
        state = state or self.state
        return state.table.rows([entry.address for _, entry in state.key_map.find(keys)], columns)

    def contents(self, keys: Sequence[int], state: State | None = None) -> list[tuple[int, int]]:
        """Keys of the items that there are, each with a hash of its content, which changes with its fields."""
        state = state or self.state
        return state.key_map.contents_of(keys)

    def item(
        self, item_id: str, columns: Sequence[str] = FIELDS, state: State | None = None
    ) -> Mapping[str, Any] | None:
        """Fields of one item, or None."""
        rows = self.fetch([item_key(item_id)], columns, state)
        return rows[0] if rows and rows[0]["id"] == item_id else None

    def _publish(self, state: State) -> None:
        if any(state.shards[number][0] is not shard for number, (shard, _) in self.state.shards.items()):
            self._recent.clear()  # they hold the shards before in memory
        self._recent[state.version] = state
        while len(self._recent) > self._max_states:
            self._recent.popitem(last=False)
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def _advanced(self, state: State, table: ProductTable) -> State:
        added = table.added(state.table, (*LOG, "id", "embedding", *(name for name in FILTER_FIELDS if name != "id")))
        if added is None or table.bundle_hash != self._bundle_hash:
            check_bundle(table, self._bundle_hash)
            return self._rebuilt(table, state.build, None)
        columns = log_columns(added)
        current = state.key_map.apply(*columns)
        keys, _, deleted, _ = columns
        last = last_positions(keys)
        for number, (shard, _) in state.shards.items():
            mine = last[keys[last] % np.uint64(state.shard_count) == number]
            put = mine[~deleted[mine]]
            rows = added.take(pa.array(put))
            shard.apply(keys[put], vector_column(rows), filter_columns(rows), keys[mine[deleted[mine]]])
        return State(
            table, current, state.build, {number: (shard, shard.view) for number, (shard, _) in state.shards.items()}
        )

    def _rebuilt(self, table: ProductTable, build: Build, current: KeyMap | None) -> State:
        """A state from a build and any version of the table: what the build does not hold as it is now is read."""
        current = current or table.key_map()
        keys, contents, addresses = current.arrays()
        shards = {}
        for number, base in build.bases.items():
            mine = keys % np.uint64(len(build.manifest.shards)) == number
            positions = base.positions(keys[mine])
            same = base.unchanged(positions, contents[mine])
            shard = Shard(base)
            gone = np.ones(len(base.keys), bool)
            gone[positions[same]] = False
            shard.apply(*_no_items(table), base.keys[gone])
            missing, wanted = keys[mine][~same], addresses[mine][~same]
            for start in range(0, len(missing), ROWS_AT_ONCE):
                rows = table.take(wanted[start : start + ROWS_AT_ONCE], ("embedding", *FILTER_FIELDS))
                shard.apply(
                    missing[start : start + ROWS_AT_ONCE],
                    vector_column(rows),
                    filter_columns(rows),
                    np.empty(0, np.uint64),
                )
            shards[number] = (shard, shard.view)
        return State(table, current, build, shards)

    def _newer_build(self) -> Build | None:
        """The build in use now, if it is another one and whole; a damaged one is told of once, and not used."""
        place = ""
        try:
            folder = current_build(self._index)
            place = str(folder)
            if folder == self.state.build.folder or place == self._refused:
                return None
            build = open_build(self._index, self._bundle_hash, self._shard_numbers)
            if self._shard_numbers is not None and len(build.manifest.shards) != self.state.shard_count:
                raise IndexDamagedError(
                    f"index {self._index} has {len(build.manifest.shards)} shards now, and had "
                    f"{self.state.shard_count}: start the service again, or build it as it was"
                )
        except GalleriaError as error:
            if self._refused != (place or str(error)):
                self._refused = place or str(error)
                logger.error("the new index is not used, the one before goes on answering: %s", error)
            return None
        self._refused = ""
        return build


def open_table(path: Path | str, bundle_hash: str) -> ProductTable:
    """The newest version of a table.

    Raises:
        DataError: there is no table.
        BundleError: its vectors were made with another bundle.
    """
    table = ProductTable(path)
    check_bundle(table, bundle_hash)
    return table


def check_bundle(table: ProductTable, bundle_hash: str) -> None:
    """Refuse a table whose vectors another bundle made.

    Raises:
        BundleError: they do not belong together.
    """
    if table.bundle_hash != bundle_hash:
        raise BundleError(
            f"the vectors of {table.path} were made with bundle {table.bundle_hash[:12] or '(unknown)'}, but the "
            f"bundle in use is {bundle_hash[:12]}: run 'galleria embed' and 'galleria index build' again"
        )


def _no_items(table: ProductTable) -> tuple[NDArray[np.uint64], NDArray[np.float32], pa.Table]:
    empty = pa.schema([table.schema.field(name) for name in FILTER_FIELDS]).empty_table()
    return np.empty(0, np.uint64), np.empty((0, table.dimension), np.float32), filter_columns(empty)
