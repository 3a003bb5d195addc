"""The writer of a table: batches concurrent requests into one commit, and completes them once it is durable."""

import queue
import threading
from collections import ChainMap
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.background import Background
from galleria.catalog.attribute_names import AttributeNames, names_of
from galleria.catalog.items import deletions, item_key, upserts
from galleria.catalog.key_map import Entry
from galleria.catalog.table import ProductTable
from galleria.durable import Sync, sync
from galleria.errors import ConfigurationError, DataError, GalleriaError
from galleria.media.limits import LIMITS

Status = Literal["created", "updated", "unchanged", "deleted", "absent", "rejected"]

MAX_COMMIT_ROWS = 10_000
"""Rows from which a commit takes no further request."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Result of a request.

    Attributes:
        version: a version of the table that includes it.
        statuses: of the items, in the order of the request.
        problems: why items were rejected, by their index.
    """

    version: int
    statuses: tuple[Status, ...]
    problems: Mapping[int, str] = field(default_factory=dict)


class Unchanged(NamedTuple):
    """An item to put that the table already holds with this content, as far as the sender knows. Has no vector."""

    id: str
    content: int


class ContentChangedError(GalleriaError):
    """The table holds an `Unchanged` item with another content by now. Nothing of the request was written."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request in the queue.

    Attributes:
        entries: key and content hash of each item.
        unchanged: ids of the `Unchanged` items by their index.
        rows: of the other items.
        names: of the attributes of those items that have any, by their index.
    """

    entries: Sequence[tuple[int, int]]
    unchanged: Mapping[int, str]
    rows: pa.RecordBatch
    names: Mapping[int, Set[str]]
    deletes: bool
    result: "Future[WriteResult]"


class CatalogWriter:
    """Writes to one table from one thread. Writers in other processes may write at the same time."""

    def __init__(self, path: Path | str, to_disk: Sync = sync, max_attributes: int = LIMITS.catalog_attributes) -> None:
        """Open a table, after a power loss too.

        Args:
            path: of the table.
            to_disk: syncs a file or a folder.
            max_attributes: number of different names that the attributes of all items may have.

        Raises:
            DataError: there is no table.
        """
        self._table = ProductTable.recover(path, to_disk)
        self._key_map = self._table.key_map()
        self._synced = False
        self._names = AttributeNames(max_attributes)
        self._names.count(self._table, self._key_map)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._enqueueing = threading.Lock()
        self._thread = Background("writer", self._run, self._stop)

    @property
    def table(self) -> ProductTable:
        """The table as of the last commit."""
        return self._table

    def put(
        self, items: Sequence[Mapping[str, Any] | Unchanged], vectors: NDArray[np.float32]
    ) -> "Future[WriteResult]":
        """Put items in this order; one that exists with the same content is left as it is.

        One whose attributes have new names is "rejected" where the catalogue has as many as it may have.

        Args:
            items: as `upserts` takes them, or `Unchanged`.
            vectors: unit vectors `[N, D]` of those that are not `Unchanged`.

        Returns:
            The result; with `ContentChangedError` where an `Unchanged` item has changed.

        Raises:
            DataError: an item or a vector cannot be used; nothing is written then.
        """
        unchanged = {index: item.id for index, item in enumerate(items) if isinstance(item, Unchanged)}
        new = [item for item in items if not isinstance(item, Unchanged)]
        if vectors.ndim != 2 or vectors.shape != (len(new), self._table.dimension):
            raise DataError(
                f"the vectors have the shape {vectors.shape}, the table takes {len(new)} × {self._table.dimension}"
            )
        rows = upserts(new, vectors, self._table.bundle_hash)
        new_entries = iter(_entries(rows))
        entries = [
            (item_key(item.id), item.content) if isinstance(item, Unchanged) else next(new_entries) for item in items
        ]
        names = {
            index: names_of(item.get("attributes"))
            for index, item in enumerate(items)
            if not isinstance(item, Unchanged)
        }
        return self._enqueue(entries, unchanged, rows, names, deletes=False)

    def delete(self, ids: Sequence[str]) -> "Future[WriteResult]":
        """Delete items; the status of those that do not exist is "absent".

        Raises:
            DataError: an id cannot be used.
        """
        rows = deletions(ids, self._table.schema)
        return self._enqueue(_entries(rows), {}, rows, {}, deletes=True)

    def close(self) -> None:
        """Commit the requests in the queue, and stop."""
        self._thread.end()

    def _stop(self) -> None:
        with self._enqueueing:
            self._closed = True
            self._requests.put(None)

    def _enqueue(
        self,
        entries: Sequence[tuple[int, int]],
        unchanged: Mapping[int, str],
        rows: pa.RecordBatch,
        names: Mapping[int, Set[str]],
        deletes: bool,
    ) -> "Future[WriteResult]":
        result: Future[WriteResult] = Future()
        request = _Request(entries, unchanged, rows, names, deletes, result)
        with self._enqueueing:
            if self._closed:
                raise ConfigurationError("this writer is closed: open another")
            self._requests.put(request)
        return result

    def _run(self) -> None:
        while True:
            queued = [self._requests.get()]
            rows = 0
            while queued[-1] is not None and rows < MAX_COMMIT_ROWS and not self._requests.empty():
                rows += len(queued[-1].entries)
                queued.append(self._requests.get())
            # From here on a request cannot be cancelled, so that its result can be set.
            batch = [request for request in queued if request and request.result.set_running_or_notify_cancel()]
            if batch:
                self._commit(batch)
            if queued[-1] is None:
                return

    def _commit(self, batch: Sequence[_Request]) -> None:
        try:
            self._catch_up()
            new = set[str]().union(*(names for request in batch for names in request.names.values()))
            self._names.make_space(new, self._table, self._key_map)
            seen: dict[int, Entry | None] = {}
            outcomes = [self._decide(request, seen) for request in batch]
            changes = [
                _changed(request, outcome.statuses)
                for request, outcome in zip(batch, outcomes, strict=True)
                if not isinstance(outcome, ContentChangedError)
            ]
            rows = pa.Table.from_batches(changes, self._table.schema)
            if len(rows):
                self._advance(self._table.append(rows))
            version = self._table.version
        except BaseException as error:
            for request in batch:
                request.result.set_exception(error)
            return
        for request, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ContentChangedError):
                request.result.set_exception(outcome)
            else:
                request.result.set_result(replace(outcome, version=version))

    def _decide(self, request: _Request, seen: dict[int, Entry | None]) -> WriteResult | ContentChangedError:
        """Return the status of each item of a request, after those in `seen` before it in the same commit.

        All of the request is added to `seen`; nothing of it where an `Unchanged` item has changed.
        """
        current: ChainMap[int, Entry | None] = ChainMap({}, seen)
        statuses: list[Status] = []
        problems: dict[int, str] = {}
        for index, (key, content) in enumerate(request.entries):
            before = current[key] if key in current else self._key_map.get(key)
            if request.deletes:
                statuses.append("absent" if before is None else "deleted")
                current[key] = None
            elif before is not None and before.content == content:
                statuses.append("unchanged")
            elif index in request.unchanged:
                return ContentChangedError(f"item {request.unchanged[index]!r} has changed: send its vector")
            elif problem := self._check_names(request.names.get(index)):
                statuses.append("rejected")
                problems[index] = problem
            else:
                statuses.append("created" if before is None else "updated")
                current[key] = Entry(0, content)
        seen.update(current.maps[0])
        return WriteResult(0, tuple(statuses), problems)

    def _check_names(self, names: Set[str] | None) -> str | None:
        """Add the names of an item's attributes, or return why it is rejected."""
        try:
            self._names.add(names or frozenset())
        except DataError as error:
            return str(error)
        return None

    def _catch_up(self) -> None:
        """Read what others have written, so that an item that one of them changed does not count as unchanged.

        Also where the table was made anew, with the same version: a commit on top of the old one would destroy it.

        An item that is there may be acknowledged as unchanged. So what this writer did not make durable is made so
        first: it may be of a commit, of its own or of a writer that has died, that was interrupted before its sync.
        """
        newest = self._table.latest()
        is_same = newest.is_same(self._table)
        if not is_same or not self._synced:
            newest.sync()
            self._synced = True
        if not is_same:
            added = newest.added(self._table, ("attributes",))
            if added is not None:
                self._names.include(added["attributes"].drop_null().to_pylist())
            self._advance(newest)

    def _advance(self, table: ProductTable) -> None:
        self._key_map = table.key_map(since=(self._table, self._key_map))
        self._table = table


def _entries(rows: pa.RecordBatch) -> list[tuple[int, int]]:
    """Return the key and the content hash of each row."""
    return list(zip(rows["key"].to_pylist(), rows["content"].to_pylist(), strict=True))


def _changed(request: _Request, statuses: Sequence[Status]) -> pa.RecordBatch:
    """Return the rows of a request that are to be written."""
    new = [status for index, status in enumerate(statuses) if index not in request.unchanged]
    return request.rows.filter(
        pa.array([status not in ("unchanged", "absent", "rejected") for status in new], pa.bool_())
    )
