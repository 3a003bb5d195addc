"""The deployment that writes: one replica, so that what many ask for at a time goes into one commit."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.background import Background, lower_priority
from galleria.catalog.writer import CatalogWriter, WriteResult
from galleria.errors import GalleriaError
from galleria.pipelines.maintenance import Maintenance
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.resolve import ResolvedAlias, in_use
from galleria.serving.rpc import call

logger = logging.getLogger("ray.serve")

NICENESS = 10

KEPT = 2
"""Tables that stay open, those that were written last: the one in use, and one that is tried out."""

IDLE_SECONDS = 60.0

LOOK_SECONDS = 5.0
"""How often the writer looks whether the table or the index is due for maintenance."""


class Writer(Protocol):
    """Writes to the catalogue."""

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> WriteResult:
        """As `CatalogWriter.put`, once it is durable."""

    async def delete(self, ids: Sequence[str]) -> WriteResult:
        """As `CatalogWriter.delete`, once it is durable."""


class LocalWriter:
    """A `CatalogWriter` in this process, and the maintenance of its table and index."""

    def __init__(self, place: CatalogLocation, keep_days: float) -> None:
        """Open the table to write.

        Args:
            place: the table, and its index.
            keep_days: how long versions of the table without a name are kept.

        Raises:
            DataError: there is no table.
        """
        self._place = place
        self._keep = timedelta(days=keep_days)
        self._writer = CatalogWriter(place.table)
        self._ended = threading.Event()
        self._maintenance = Background("maintenance", self._maintain, self._ended.set)

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> WriteResult:
        """As `Writer.put`.

        Raises:
            DataError: an item or a vector cannot be used.
            CatalogFullError: the disk is full.
        """
        return await asyncio.wrap_future(self._writer.put(items, vectors))

    async def delete(self, ids: Sequence[str]) -> WriteResult:
        """As `Writer.delete`. Raises as `put`."""
        return await asyncio.wrap_future(self._writer.delete(ids))

    def close(self) -> None:
        """Write what was asked for, and stop."""
        self._maintenance.end()
        self._writer.close()

    def _maintain(self) -> None:
        # Of this thread and those that it starts: building an index shall not slow searches down.
        lower_priority(NICENESS)
        maintenance = Maintenance(Path(self._place.index), self._keep)
        while not self._ended.wait(LOOK_SECONDS):
            try:
                maintenance.look(self._writer.table)
            except Exception:  # writes go on; it is tried again
                logger.exception("maintenance of %s failed", self._place.table)


class WriterServer:
    """Writers as a Serve deployment: errors that are the caller's come back as values, with no traceback around."""

    def __init__(self, config: ServiceConfig, choice: ResolvedAlias) -> None:
        """Open the tables that are in use; `choice` is what was at first. Others are opened with the first write."""
        self._keep_days = config.keep_days
        self._writers: dict[CatalogLocation, LocalWriter] = {}
        self._used: dict[CatalogLocation, float] = {}
        self._opening = threading.Lock()
        for offer in in_use(config, SEARCH, choice).offers:
            if offer.catalog is not None:
                self._open(offer.catalog)

    async def put(
        self, place: CatalogLocation, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]
    ) -> WriteResult | GalleriaError:
        """As `LocalWriter.put`."""
        try:
            return await (await self._writer(place)).put(items, vectors)
        except GalleriaError as error:
            return error

    async def delete(self, place: CatalogLocation, ids: Sequence[str]) -> WriteResult | GalleriaError:
        """As `LocalWriter.delete`."""
        try:
            return await (await self._writer(place)).delete(ids)
        except GalleriaError as error:
            return error

    async def _writer(self, place: CatalogLocation) -> LocalWriter:
        self._used[place] = time.monotonic()
        found = self._writers.get(place)
        return await asyncio.to_thread(self._open, place) if found is None else found

    def _open(self, place: CatalogLocation) -> LocalWriter:
        with self._opening:
            self._used[place] = time.monotonic()
            if place not in self._writers:
                self._writers[place] = LocalWriter(place, self._keep_days)
            for idle in sorted(self._writers, key=self._used.__getitem__)[:-KEPT]:
                if self._used[idle] < time.monotonic() - IDLE_SECONDS:  # nobody is about to write with it
                    threading.Thread(target=self._writers.pop(idle).close).start()  # its maintenance may take long
            return self._writers[place]


class RemoteWriter:
    """Calls a `WriterServer` deployment. Both kinds of write may be sent twice: the second finds nothing to do.

    Args:
        handle: its handle.
        place: table to write, and its index.
        seconds: how long a write may take.
    """

    def __init__(self, handle: Any, place: CatalogLocation, seconds: float) -> None:
        self._handle = handle
        self._place = place
        self._seconds = seconds

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> WriteResult:
        """As `Writer.put`.

        Raises:
            GalleriaError: the writer's own.
            ProblemError: 503, it cannot be reached.
        """
        return await self._write(self._handle.put.remote, self._place, items, vectors)

    async def delete(self, ids: Sequence[str]) -> WriteResult:
        """As `Writer.delete`. Raises as `put`."""
        return await self._write(self._handle.delete.remote, self._place, ids)

    async def _write(self, send: Callable[..., Any], *values: Any) -> WriteResult:
        outcome: WriteResult | GalleriaError = await call("the writer", self._seconds, send, *values)
        if isinstance(outcome, GalleriaError):
            raise outcome
        return outcome
