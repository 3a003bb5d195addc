"""The deployment that writes: one replica, so that concurrent writes share a commit."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.background import Background, lower_priority
from galleria.catalog.writer import CatalogWriter, Unchanged, WriteResult
from galleria.errors import GalleriaError
from galleria.pipelines.maintenance import Maintenance
from galleria.serving.audit import AuditLog, Origin
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.resolve import ReleaseRef, resolve_current
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


class Writer(Protocol):
    """Writes to the catalogue."""

    async def put(
        self, items: Sequence[Mapping[str, Any] | Unchanged], vectors: NDArray[np.float32], origin: Origin
    ) -> WriteResult:
        """Write as `CatalogWriter.put`; return once it is durable."""

    async def delete(self, ids: Sequence[str], origin: Origin) -> WriteResult:
        """Delete as `CatalogWriter.delete`; return once it is durable."""


class LocalWriter:
    """A `CatalogWriter` in this process, and the maintenance of its table and index."""

    def __init__(
        self,
        location: CatalogLocation,
        retention_days: float,
        audit: AuditLog | None = None,
        maintenance_interval_s: float = MAINTENANCE_INTERVAL_S,
    ) -> None:
        """Open the table to write.

        Args:
            location: the table, and its index.
            retention_days: how long versions of the table without a tag are kept.
            audit: log of its writes; by default Serve's log alone.
            maintenance_interval_s: time between two checks for maintenance, in seconds.

        Raises:
            DataError: there is no table.
        """
        self._location = location
        self._audit = audit or AuditLog("")
        self._retention = timedelta(days=retention_days)
        self._maintenance_interval_s = maintenance_interval_s
        self._writer = CatalogWriter(location.table)
        self._stopped = threading.Event()
        self._maintenance = Background("maintenance", self._maintain, self._stopped.set)

    async def put(
        self, items: Sequence[Mapping[str, Any] | Unchanged], vectors: NDArray[np.float32], origin: Origin
    ) -> WriteResult:
        """Write as `Writer.put`.

        Raises:
            DataError: an item or a vector cannot be used.
            ContentChangedError: an `Unchanged` item has changed.
            CatalogFullError: the disk is full.
        """
        ids = [item.id if isinstance(item, Unchanged) else item["id"] for item in items]
        return await self._logged(self._writer.put(items, vectors), ids, origin)

    async def delete(self, ids: Sequence[str], origin: Origin) -> WriteResult:
        """Delete as `Writer.delete`. Raises as `put`."""
        return await self._logged(self._writer.delete(ids), ids, origin)

    def close(self) -> None:
        """Finish the writes that have begun, and stop."""
        self._maintenance.end()
        self._writer.close()

    def _logged(
        self, result: "Future[WriteResult]", ids: Sequence[str], origin: Origin
    ) -> "asyncio.Future[WriteResult]":
        """Return the result, which is logged before it is returned, and also where nobody waits for it any more."""

        def log(done: "Future[WriteResult]") -> None:
            if not done.cancelled() and done.exception() is None:
                self._audit.log_write(origin, self._location.table, ids, done.result())

        result.add_done_callback(log)
        return asyncio.wrap_future(result)

    def _maintain(self) -> None:
        # Of this thread and those that it starts: building an index must not slow searches down.
        lower_priority(MAINTENANCE_NICENESS)
        maintenance = Maintenance(Path(self._location.index), self._retention)
        interval_s = self._maintenance_interval_s
        while not self._stopped.wait(interval_s):
            try:
                maintenance.run(self._writer.table)
                interval_s = self._maintenance_interval_s
            except Exception:  # writes go on; each try may read the whole table
                interval_s = min(2 * interval_s, MAX_MAINTENANCE_INTERVAL_S)
                logger.exception("maintenance of %s failed, next try in %g s", self._location.table, interval_s)


class WriterServer:
    """Writers as a Serve deployment. Returns the client's errors as values, without a traceback around them."""

    def __init__(
        self, config: ServiceConfig, started: TrafficSplit[ReleaseRef], idle_timeout_s: float = IDLE_TIMEOUT_S
    ) -> None:
        """Open the tables that are in use; `started` are those at first. Others are opened by their first write."""
        self._retention_days = config.version_retention_days
        self._audit = AuditLog(config.audit)
        self._idle_timeout_s = idle_timeout_s
        self._writers: dict[CatalogLocation, LocalWriter] = {}
        self._used_at: dict[CatalogLocation, float] = {}
        self._opening = threading.Lock()
        for reference in resolve_current(config, SEARCH, started).all:
            if reference.catalog is not None:
                self._open(reference.catalog)

    async def put(
        self,
        location: CatalogLocation,
        items: Sequence[Mapping[str, Any] | Unchanged],
        vectors: NDArray[np.float32],
        origin: Origin,
    ) -> WriteResult | GalleriaError:
        """Write as `LocalWriter.put`."""
        try:
            return await (await self._writer(location)).put(items, vectors, origin)
        except GalleriaError as error:
            return error

    async def delete(
        self, location: CatalogLocation, ids: Sequence[str], origin: Origin
    ) -> WriteResult | GalleriaError:
        """Delete as `LocalWriter.delete`."""
        try:
            return await (await self._writer(location)).delete(ids, origin)
        except GalleriaError as error:
            return error

    async def _writer(self, location: CatalogLocation) -> LocalWriter:
        self._used_at[location] = time.monotonic()
        writer = self._writers.get(location)
        return await asyncio.to_thread(self._open, location) if writer is None else writer

    def _open(self, location: CatalogLocation) -> LocalWriter:
        with self._opening:
            self._used_at[location] = time.monotonic()
            if location not in self._writers:
                self._writers[location] = LocalWriter(location, self._retention_days, self._audit)
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
        location: table to write, and its index.
        timeout_s: how long a write may take, in seconds.
    """

    def __init__(self, handle: Any, location: CatalogLocation, timeout_s: float) -> None:
        self._handle = handle
        self._location = location
        self._timeout_s = timeout_s

    async def put(
        self, items: Sequence[Mapping[str, Any] | Unchanged], vectors: NDArray[np.float32], origin: Origin
    ) -> WriteResult:
        """Write as `Writer.put`.

        Raises:
            GalleriaError: the writer's own.
            ProblemError: 503, it cannot be reached.
        """
        return await self._write(self._handle.put.remote, self._location, items, vectors, origin)

    async def delete(self, ids: Sequence[str], origin: Origin) -> WriteResult:
        """Delete as `Writer.delete`. Raises as `put`."""
        return await self._write(self._handle.delete.remote, self._location, ids, origin)

    async def _write(self, send: Callable[..., Any], *values: Any) -> WriteResult:
        outcome: WriteResult | GalleriaError = await call("the writer", self._timeout_s, send, *values)
        if isinstance(outcome, GalleriaError):
            raise outcome
        return outcome
