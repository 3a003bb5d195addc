"""The deployment that writes: one replica, so that what many ask for at a time goes into one commit."""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.writer import CatalogWriter, Written
from galleria.errors import GalleriaError
from galleria.pipelines.maintenance import Maintenance
from galleria.serving.arguments import ServiceArguments

logger = logging.getLogger("ray.serve")

NICENESS = 10

LOOK_SECONDS = 5.0
"""How often the writer looks whether the table or the index is due for maintenance."""


class Writes(Protocol):
    """Writes to the catalogue."""

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> Written:
        """As `CatalogWriter.put`, once it is durable."""

    async def delete(self, ids: Sequence[str]) -> Written:
        """As `CatalogWriter.delete`, once it is durable."""


class LocalWriter:
    """A `CatalogWriter` in this process, and the maintenance of its table and index."""

    def __init__(self, arguments: ServiceArguments) -> None:
        """Open the table to write.

        Raises:
            DataError: there is no table.
        """
        self._arguments = arguments
        self._writer = CatalogWriter(arguments.table)
        self._ended = threading.Event()
        threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> Written:
        """As `Writes.put`.

        Raises:
            DataError: an item or a vector cannot be used.
            CatalogFullError: the disk is full.
        """
        return await asyncio.wrap_future(self._writer.put(items, vectors))

    async def delete(self, ids: Sequence[str]) -> Written:
        """As `Writes.delete`. Raises as `put`."""
        return await asyncio.wrap_future(self._writer.delete(ids))

    def close(self) -> None:
        """Write what was asked for, and stop."""
        self._ended.set()
        self._writer.close()

    def _maintain(self) -> None:
        # Of this thread and those that it starts: building an index shall not slow searches down.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        maintenance = Maintenance(Path(self._arguments.index), timedelta(days=self._arguments.keep_days))
        while not self._ended.wait(LOOK_SECONDS):
            try:
                maintenance.look(self._writer.table)
            except Exception:  # writes go on; it is tried again
                logger.exception("maintenance of %s failed", self._arguments.table)


class WriterServer(LocalWriter):
    """The same as a Serve deployment: errors that are the caller's come back as values, with no traceback around."""

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> Any:
        """A `Written`, or the error."""
        try:
            return await super().put(items, vectors)
        except GalleriaError as error:
            return error

    async def delete(self, ids: Sequence[str]) -> Any:
        """A `Written`, or the error."""
        try:
            return await super().delete(ids)
        except GalleriaError as error:
            return error
