"""A catalogue that follows its table: searches see every commit, without a restart."""

import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from galleria.background import Background
from galleria.catalog.items import FIELDS, item_key
from galleria.catalog.state import State, open_table
from galleria.catalog.table import ProductTable
from galleria.errors import GalleriaError, IndexDamagedError, StorageError
from galleria.index.base import Build, open_build
from galleria.index.filters import Filter
from galleria.index.manifest import current_build
from galleria.index.ranking import Cursor
from galleria.index.shard import Neighbor

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.02
"""Interval of looking for a newer version of a table on a local disk; one look costs about .01 ms."""

REMOTE_POLL_INTERVAL_S = 0.2
"""The same for a table in an object store."""

IDENTITY_INTERVAL_S = 1.0
"""Interval of looking whether a table was made anew with the same version, or has a newer one that does not follow the
version in use; one look costs about 1 ms."""

FILES_INTERVAL_S = 2.0
"""Interval of looking whether a table's files are there; one look costs about .01 ms a file."""

UNREADABLE_S = 60.0
"""How long a row that could not be read is reported."""

RETRY_INTERVAL_S = 1.0
"""Pause after a failure."""

RETRY_BUILD_AFTER_S = 300.0
"""Time until a build of the index that could not be opened is tried again; its storage may have failed for a moment."""


class FollowerStatus(NamedTuple):
    """How well a catalogue follows its table.

    Attributes:
        lag_s: seconds since the state was last known to be the newest.
        lag_versions: versions of the table that are newer than the state, as far as they have been seen.
        failing_s: seconds for which every attempt to follow has failed; 0 where the last one did not.
        unreadable: whether rows could not be read in the last minute.
    """

    lag_s: float
    lag_versions: int
    failing_s: float
    unreadable: bool = False


class LiveCatalog:
    """Searches and reads a product table through its index, as of the newest version that it has seen.

    Attributes:
        state: of the table and its index, exchanged as a whole.
        refreshed_at: when the last look at the table began whose result `state` has, of `time.monotonic`.
    """

    def __init__(
        self,
        table: Path | str,
        index: Path | str,
        bundle_hash: str,
        shards: Sequence[int] | None = None,
        max_versions: int = 1,
        retry_build_after_s: float = RETRY_BUILD_AFTER_S,
    ) -> None:
        """Open both, and catch up with the table.

        Args:
            table: a product table.
            index: folder of an index that was built from some version of it.
            bundle_hash: the bundle that embeds the queries.
            shards: numbers of the shards to hold; by default all.
            max_versions: number of latest versions that `state_at` can return.
            retry_build_after_s: time until a build that could not be opened is tried again, in seconds.

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
        self._retry_build_at = 0.0
        self._retry_build_after_s = retry_build_after_s
        self._identified_at = 0.0
        self._files_checked_at = 0.0
        self._unreadable_at = -math.inf
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._follower: Background | None = None
        self._failing_since: float | None = None
        self.refreshed_at = time.monotonic()
        self.state = State.load(opened, build)
        self._max_versions = max_versions
        self._states = OrderedDict({self.state.version: self.state})
        self._newest = self.state.version

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
                    if self._failing_since is None:  # once, and not every second of an outage
                        logger.exception("the catalogue cannot follow its table; version %d stays", self.state.version)
                        self._failing_since = time.monotonic()
                    self._ended.wait(RETRY_INTERVAL_S)
                else:
                    self._failing_since = None

        self._follower = Background("catalogue", run, self._ended.set)

    @property
    def status(self) -> FollowerStatus:
        """How well it follows its table."""
        now, failing_since = time.monotonic(), self._failing_since
        return FollowerStatus(
            lag_s=now - self.refreshed_at,
            lag_versions=max(0, self._newest - self.state.version),
            failing_s=0.0 if failing_since is None else now - failing_since,
            unreadable=now - self._unreadable_at < UNREADABLE_S,
        )

    def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.end()

    def refresh(self) -> State:
        """Catch up with the newest version of the table and the newest build of the index; return the state.

        Raises:
            StorageError: the table cannot be read, or a file of it is missing.
        """
        started = time.monotonic()
        with self._writing:
            table = self._newer_table()
            if table is not None:
                self._newest = table.version
                self._publish(self.state.advance(table))
        self.refreshed_at = started
        build = self._newer_build()  # takes long: searches go on, and so does `state_at`
        if build is not None:
            state = State.load(self.state.table, build, self.state.key_map)
            with self._writing:
                if state.table is not self.state.table:
                    state = state.advance(self.state.table)
                self._publish(state)
        if started >= self._files_checked_at + FILES_INTERVAL_S:
            self.state.table.check_files()
            self._files_checked_at = started
        return self.state

    def wait_for(self, version: int, timeout_s: float) -> State | None:
        """Return the state as soon as it has reached a version, or None after the timeout."""
        with self._changed:
            reached = self._changed.wait_for(lambda: self.state.version >= version, timeout_s)
        return self.state if reached else None

    def state_at(self, version: int, table_id: str) -> State | None:
        """Return the state at exactly this version, catching up with a later one.

        Returns None for an earlier version that is not kept, and where the table is not the one with `table_id`.

        Raises:
            DataError: the table has no such version.
        """
        state = self._states.get(version)
        if state is not None and state.table_id == table_id:
            return state
        with self._writing:
            if version > self.state.version or self.state.table_id != table_id:
                table = self.state.table.at(version)
                if table.table_id != table_id:
                    return None
                self._publish(self.state.advance(table))
            return self._states.get(version)

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        allowed: Filter | None = None,
        state: State | None = None,
        after: Cursor | None = None,
    ) -> list[list[Neighbor]]:
        """Return the nearest items of every query in all shards, as `Shard.search` does."""
        state = state or self.state
        results = [shard.search(vectors, k, allowed, view, after) for shard, view in state.shards.values()]
        if len(results) == 1:
            return results[0]
        return [
            sorted(itertools.chain.from_iterable(lists), key=lambda neighbor: (-neighbor.score, neighbor.key))[:k]
            for lists in zip(*results, strict=True)
        ]

    def fetch(
        self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: State | None = None
    ) -> list[dict[str, Any]]:
        """Return the fields of the items that exist, each with its id, in the order of `keys`.

        Raises:
            StorageError: they cannot be read.
        """
        state = state or self.state
        try:
            return state.table.rows([entry.address for _, entry in state.key_map.find(keys)], columns)
        except StorageError:
            self._unreadable_at = time.monotonic()
            raise

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

    def _newer_table(self) -> ProductTable | None:
        """Return the newest version of the table where it is another; also of one that was made anew at its path."""
        table = self.state.table
        now = time.monotonic()
        if table.is_newest() and now < self._identified_at + IDENTITY_INTERVAL_S:
            return None
        self._identified_at = now
        newest = table.latest()
        return None if newest.is_same(table) else newest

    def _newer_build(self) -> Build | None:
        """Return the current build if it is another and intact; log a damaged one once, and try it again later."""
        path = ""
        try:
            folder = current_build(self._index)
            path = str(folder)
            rejected = path == self._rejected_build and time.monotonic() < self._retry_build_at
            if folder == self.state.build.folder or rejected:
                return None
            build = open_build(self._index, self._bundle_hash, self._shard_numbers)
            if self._shard_numbers is not None and len(build.manifest.shards) != self.state.shard_count:
                raise IndexDamagedError(
                    f"index {self._index} has {len(build.manifest.shards)} shards now, and had "
                    f"{self.state.shard_count}: start the service again, or build it as it was"
                )
        except GalleriaError as error:
            self._retry_build_at = time.monotonic() + self._retry_build_after_s
            if self._rejected_build != (path or str(error)):
                self._rejected_build = path or str(error)
                logger.error("the new index is not used, the previous one stays in use: %s", error)
            return None
        self._rejected_build = ""
        return build
