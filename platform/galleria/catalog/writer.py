"""The writer of a table: batches concurrent requests into one commit, and completes them once it is durable."""

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.background import Background
from galleria.catalog.items import deletions, upserts
from galleria.catalog.key_map import Entry
from galleria.catalog.table import ProductTable
from galleria.durable import Sync, sync
from galleria.errors import ConfigurationError, DataError

Status = Literal["created", "updated", "unchanged", "deleted", "absent"]

MAX_COMMIT_ROWS = 10_000
"""Rows from which a commit takes no further request."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Result of a request.

    Attributes:
        version: a version of the table that includes it.
        statuses: of the items, in the order of the request.
    """

    version: int
    statuses: tuple[Status, ...]


@dataclass(frozen=True, slots=True)
class _Request:
    keys: Sequence[int]
    contents: Sequence[int]
    rows: pa.RecordBatch
    deletes: bool
    result: "Future[WriteResult]"


class CatalogWriter:
    """Writes to one table from one thread. Writers in other processes may write at the same time."""

    def __init__(self, path: Path | str, to_disk: Sync = sync) -> None:
        """Open a table, after a power loss too.

        Raises:
            DataError: there is no table.
        """
        self._table = ProductTable.recover(path, to_disk)
        self._key_map = self._table.key_map()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._enqueueing = threading.Lock()
        self._thread = Background("writer", self._run, self._stop)

    @property
    def table(self) -> ProductTable:
        """The table as of the last commit."""
        return self._table

    def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> "Future[WriteResult]":
        """Put items with their unit vectors `[N, D]`; one that exists with the same content is left as it is.

        Raises:
            DataError: an item or a vector cannot be used; nothing is written then.
        """
        if vectors.ndim != 2 or vectors.shape != (len(items), self._table.dimension):
            raise DataError(
                f"the vectors have the shape {vectors.shape}, the table takes {len(items)} × {self._table.dimension}"
            )
        rows = upserts(items, vectors, self._table.bundle_hash)
        return self._enqueue(rows, deletes=False)

    def delete(self, ids: Sequence[str]) -> "Future[WriteResult]":
        """Delete items; the status of those that do not exist is "absent".

        Raises:
            DataError: an id cannot be used.
        """
        return self._enqueue(deletions(ids, self._table.schema), deletes=True)

    def close(self) -> None:
        """Commit the requests in the queue, and stop."""
        self._thread.end()

    def _stop(self) -> None:
        with self._enqueueing:
            self._closed = True
            self._requests.put(None)

    def _enqueue(self, rows: pa.RecordBatch, deletes: bool) -> "Future[WriteResult]":
        result: Future[WriteResult] = Future()
        request = _Request(rows["key"].to_pylist(), rows["content"].to_pylist(), rows, deletes, result)
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
                rows += len(queued[-1].keys)
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
            seen: dict[int, Entry | None] = {}
            statuses = [self._decide(request, seen) for request in batch]
            changes = [
                request.rows.filter(pa.array([status not in ("unchanged", "absent") for status in each], pa.bool_()))
                for request, each in zip(batch, statuses, strict=True)
            ]
            rows = pa.Table.from_batches(changes, self._table.schema)
            if len(rows):
                self._advance(self._table.append(rows))
            version = self._table.version
        except BaseException as error:
            for request in batch:
                request.result.set_exception(error)
            return
        for request, each in zip(batch, statuses, strict=True):
            request.result.set_result(WriteResult(version, tuple(each)))

    def _decide(self, request: _Request, seen: dict[int, Entry | None]) -> list[Status]:
        """Return the status of each item of a request, after those before it in the same commit."""
        statuses: list[Status] = []
        for key, content in zip(request.keys, request.contents, strict=True):
            before = seen[key] if key in seen else self._key_map.get(key)
            if request.deletes:
                statuses.append("absent" if before is None else "deleted")
                seen[key] = None
            else:
                statuses.append(
                    "created" if before is None else "unchanged" if before.content == content else "updated"
                )
                seen[key] = Entry(0, content)
        return statuses

    def _catch_up(self) -> None:
        """Read what others have written, so that an item that one of them changed does not count as unchanged."""
        if self._table.newest != self._table.version:
            self._advance(self._table.latest())

    def _advance(self, table: ProductTable) -> None:
        self._key_map = table.key_map(since=(self._table, self._key_map))
        self._table = table
