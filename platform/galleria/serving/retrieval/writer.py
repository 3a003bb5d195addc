"""The deployment that writes: one replica, so that concurrent writes share a commit."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.background import Background, lower_priority
from galleria.catalog.writer import CatalogWriter, Unchanged, WriteResult
from galleria.errors import DataError, GalleriaError, StorageError
from galleria.media.limits import LIMITS
from galleria.pipelines.maintenance import Maintenance
from galleria.serving.audit import AuditLog, Origin
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.garbage import freeze_heap
from galleria.serving.resolve import ReleaseRef, resolve_current
from galleria.serving.retrieval.fence import ReleaseFence
from galleria.serving.rpc import call
from galleria.serving.traffic_split import TrafficSplit

logger = logging.getLogger("ray.serve")

MAINTENANCE_NICENESS = 10

MAX_OPEN_TABLES = 2
"""The table in use, and that of a canary. More stay open only while they are written to."""

IDLE_TIMEOUT_S = 60.0
"""Time since its last write after which a table beyond `MAX_OPEN_TABLES` is closed."""

MAINTENANCE_INTERVAL_S = 5.0
"""Between two checks whether the table or the index need maintenance; after failures it doubles."""

MAX_MAINTENANCE_INTERVAL_S = 300.0
"""After many failures in a row."""

STUCK_AFTER_S = 300.0
"""Age of a write from which its thread counts as stuck, so that the writer is replaced. Slow storage takes seconds."""

STATUS_TIMEOUT_S = 2.0
"""How long a gateway waits for the writer's status."""


class CatalogPut(NamedTuple):
    """Items to put into one catalogue.

    Attributes:
        location: the catalogue.
        items: as `CatalogWriter.put` takes them.
        vectors: unit vectors `[N, D]` of those that are not `Unchanged`.
    """

    location: CatalogLocation
    items: Sequence[Mapping[str, Any] | Unchanged]
    vectors: NDArray[np.float32]


class WriterStatus(NamedTuple):
    """State of the writer of one catalogue.

    Attributes:
        readable: whether it can read the table's storage now.
        pending_s: age of the oldest write that is not done.
        maintenance_failures: in a row.
        maintenance_s: for how long maintenance has been running; 0 between two runs.
    """

    readable: bool = True
    pending_s: float = 0.0
    maintenance_failures: int = 0
    maintenance_s: float = 0.0


class Writer(Protocol):
    """Writes to the catalogues of all releases that may answer, in the same order in each of them."""

    async def put(self, puts: Sequence[CatalogPut], origin: Origin) -> Sequence[WriteResult]:
        """Write as `CatalogWriter.put` to each catalogue; return once all of it is durable.

        Raises:
            ReleaseChangedError: the alias resolves to another catalogue too; the write is not acknowledged.
        """

    async def delete(
        self, locations: Sequence[CatalogLocation], ids: Sequence[str], origin: Origin
    ) -> Sequence[WriteResult]:
        """Delete as `CatalogWriter.delete` from each catalogue; return once it is durable. Raises as `put`."""

    async def status(self, locations: Sequence[CatalogLocation]) -> Sequence[WriterStatus]:
        """Return the state of the writer of each catalogue.

        Raises:
            ProblemError: 503, the writer does not respond.
        """


class LocalWriter:
    """A `CatalogWriter` in this process, and the maintenance of its table and index."""

    def __init__(
        self,
        location: CatalogLocation,
        retention_days: float,
        audit: AuditLog | None = None,
        maintenance_interval_s: float = MAINTENANCE_INTERVAL_S,
        max_attributes: int = LIMITS.catalog_attributes,
    ) -> None:
        """Open the table to write.

        Args:
            location: the table, and its index.
            retention_days: how long versions of the table without a tag are kept.
            audit: log of its writes; by default Serve's log alone.
            maintenance_interval_s: time between two checks for maintenance, in seconds.
            max_attributes: number of different names that the attributes of all items may have.

        Raises:
            DataError: there is no table.
        """
        self._location = location
        self._audit = audit or AuditLog("")
        self._retention = timedelta(days=retention_days)
        self._maintenance_interval_s = maintenance_interval_s
        self._writer = CatalogWriter(location.table, max_attributes=max_attributes)
        self._pending: dict[Future[WriteResult], float] = {}
        self._maintenance_failures = 0
        self._maintenance_started: float | None = None
        self._stopped = threading.Event()
        self._maintenance = Background("maintenance", self._maintain, self._stopped.set)

    def put(
        self, items: Sequence[Mapping[str, Any] | Unchanged], vectors: NDArray[np.float32], origin: Origin
    ) -> "asyncio.Future[WriteResult]":
        """Write as `CatalogWriter.put`, after the writes that were requested before.

        Raises:
            DataError: an item or a vector cannot be used.
            ContentChangedError: an `Unchanged` item has changed.
            CatalogFullError: the disk is full.
            StorageError: the table cannot be read or written.
        """
        ids = [item.id if isinstance(item, Unchanged) else item["id"] for item in items]
        return self._logged(self._writer.put(items, vectors), ids, origin)

    def delete(self, ids: Sequence[str], origin: Origin) -> "asyncio.Future[WriteResult]":
        """Delete as `CatalogWriter.delete`, after the writes that were requested before. Raises as `put`."""
        return self._logged(self._writer.delete(ids), ids, origin)

    @property
    def pending_s(self) -> float:
        """Age of the oldest write that is not done."""
        now = time.monotonic()
        return now - min([*self._pending.values(), now])

    def status(self) -> WriterStatus:
        """Return its state. Reads the table's storage: not for the event loop."""
        started = self._maintenance_started
        try:
            readable = self._writer.table.newest > 0
        except StorageError:
            readable = False
        return WriterStatus(
            readable,
            self.pending_s,
            self._maintenance_failures,
            0.0 if started is None else time.monotonic() - started,
        )

    def close(self) -> None:
        """Finish the writes that have begun, and stop."""
        self._maintenance.end()
        self._writer.close()

    def _logged(
        self, result: "Future[WriteResult]", ids: Sequence[str], origin: Origin
    ) -> "asyncio.Future[WriteResult]":
        """Return the result, which is logged before it is returned, and also where nobody waits for it any more."""

        def log(done: "Future[WriteResult]") -> None:
            self._pending.pop(done, None)
            if not done.cancelled() and done.exception() is None:
                self._audit.log_write(origin, self._location.table, ids, done.result())

        self._pending[result] = time.monotonic()
        result.add_done_callback(log)
        return asyncio.wrap_future(result)

    def _maintain(self) -> None:
        # Of this thread and those that it starts: building an index must not slow searches down.
        lower_priority(MAINTENANCE_NICENESS)
        maintenance = Maintenance(Path(self._location.index), self._retention)
        interval_s = self._maintenance_interval_s
        while not self._stopped.wait(interval_s):
            self._maintenance_started = time.monotonic()
            try:
                maintenance.run(self._writer.table)
                interval_s = self._maintenance_interval_s
                self._maintenance_failures = 0
            except Exception:  # writes go on; each try may read the whole table
                self._maintenance_failures += 1
                interval_s = min(2 * interval_s, MAX_MAINTENANCE_INTERVAL_S)
                logger.exception("maintenance of %s failed, next try in %g s", self._location.table, interval_s)
            finally:
                self._maintenance_started = None


class WriterServer:
    """Writers as a Serve deployment. Returns the client's errors as values, without a traceback around them."""

    def __init__(
        self,
        config: ServiceConfig,
        started: TrafficSplit[ReleaseRef],
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        stuck_after_s: float = STUCK_AFTER_S,
    ) -> None:
        """Open the tables that are in use; `started` are those at first. Others are opened by their first write.

        So are those whose storage cannot be reached now: a writer that does not start would be back later.
        """
        self._retention_days = config.version_retention_days
        self._max_attributes = config.limits.catalog_attributes
        self._audit = AuditLog(config.audit)
        self._idle_timeout_s = idle_timeout_s
        self._stuck_after_s = stuck_after_s
        self._fence = ReleaseFence(config)
        self._writers: dict[CatalogLocation, LocalWriter] = {}
        self._used_at: dict[CatalogLocation, float] = {}
        self._opening = threading.Lock()
        for reference in resolve_current(config, SEARCH, started).all:
            if reference.catalog is not None:
                try:
                    self._open(reference.catalog)
                except StorageError as error:
                    logger.error("%s", error)
        freeze_heap()

    async def put(self, puts: Sequence[CatalogPut], origin: Origin) -> Sequence[WriteResult] | GalleriaError:
        """Write as `Writer.put`."""
        return await self._write(
            [put.location for put in puts],
            lambda number, writer: writer.put(puts[number].items, puts[number].vectors, origin),
        )

    async def delete(
        self, locations: Sequence[CatalogLocation], ids: Sequence[str], origin: Origin
    ) -> Sequence[WriteResult] | GalleriaError:
        """Delete as `Writer.delete`."""
        return await self._write(locations, lambda _, writer: writer.delete(ids, origin))

    async def status(self, locations: Sequence[CatalogLocation]) -> Sequence[WriterStatus]:
        """Return the state of the writer of each catalogue. One that is not open has nothing to do."""
        writers = [self._writers.get(location) for location in locations]
        return [await asyncio.to_thread(writer.status) if writer else WriterStatus() for writer in writers]

    async def check_health(self) -> None:
        """Check that no write is stuck. Called by Serve, which replaces a replica whose check fails.

        Storage that fails does not fail the check: another replica would not reach it either.

        Raises:
            TimeoutError: one has not been done for `STUCK_AFTER_S`.
        """
        for location, writer in [*self._writers.items()]:
            if writer.pending_s > self._stuck_after_s:
                raise TimeoutError(f"a write to {location.table} has been waiting for {writer.pending_s:.0f} s")

    def close(self) -> None:
        """Finish the writes that have begun, and stop."""
        for writer in self._writers.values():
            writer.close()

    async def _write(
        self,
        locations: Sequence[CatalogLocation],
        request: Callable[[int, LocalWriter], "asyncio.Future[WriteResult]"],
    ) -> Sequence[WriteResult] | GalleriaError:
        tables = [location.table for location in locations]
        try:
            await self._fence.check(tables)
            writers = [await self._writer(location) for location in locations]
            # Requested of all before the first is awaited: two writes have the same order in every catalogue.
            requests = [request(number, writer) for number, writer in enumerate(writers)]
            results = await asyncio.gather(*requests, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            # The alias may have changed since the first check: then the new catalogue lacks the write.
            await self._fence.check(tables)
        except GalleriaError as error:
            return error
        return [result for result in results if not isinstance(result, BaseException)]

    async def _writer(self, location: CatalogLocation) -> LocalWriter:
        self._used_at[location] = time.monotonic()
        writer = self._writers.get(location)
        return await asyncio.to_thread(self._open, location) if writer is None else writer

    def _open(self, location: CatalogLocation) -> LocalWriter:
        """Return the writer of a table of a release, which has one.

        Raises:
            StorageError: it cannot be opened now.
        """
        with self._opening:
            self._used_at[location] = time.monotonic()
            if location not in self._writers:
                try:
                    self._writers[location] = LocalWriter(
                        location, self._retention_days, self._audit, max_attributes=self._max_attributes
                    )
                except (DataError, OSError) as error:
                    raise StorageError(f"table {location.table} cannot be opened to write: {error}") from error
            self._close_idle()
            return self._writers[location]

    def _close_idle(self) -> None:
        """Close all but the tables that were written to last or recently."""
        for location in sorted(self._writers, key=self._used_at.__getitem__)[:-MAX_OPEN_TABLES]:
            if self._used_at[location] < time.monotonic() - self._idle_timeout_s:
                writer = self._writers.pop(location)
                threading.Thread(target=writer.close).start()  # it may be in the middle of long maintenance


class RemoteWriter:
    """Calls a `WriterServer` deployment. A write may be sent twice: what was applied is "unchanged" or "absent" then.

    Args:
        handle: of the deployment.
        timeout_s: how long a write may take, in seconds.
    """

    def __init__(self, handle: Any, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def put(self, puts: Sequence[CatalogPut], origin: Origin) -> Sequence[WriteResult]:
        """Write as `Writer.put`.

        Raises:
            GalleriaError: the writer's own.
            ProblemError: 503, it cannot be reached.
        """
        return await self._write(self._handle.put.remote, puts, origin)

    async def delete(
        self, locations: Sequence[CatalogLocation], ids: Sequence[str], origin: Origin
    ) -> Sequence[WriteResult]:
        """Delete as `Writer.delete`. Raises as `put`."""
        return await self._write(self._handle.delete.remote, locations, ids, origin)

    async def status(self, locations: Sequence[CatalogLocation]) -> Sequence[WriterStatus]:
        """Return as `Writer.status`."""
        statuses: Sequence[WriterStatus] = await call(
            "the writer", STATUS_TIMEOUT_S, self._handle.status.remote, locations
        )
        return statuses

    async def _write(self, send: Callable[..., Any], *values: Any) -> Sequence[WriteResult]:
        outcome: Sequence[WriteResult] | GalleriaError = await call("the writer", self._timeout_s, send, *values)
        if isinstance(outcome, GalleriaError):
            raise outcome
        return outcome
