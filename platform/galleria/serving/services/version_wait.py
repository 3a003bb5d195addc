"""The wait for a version of the catalogue that a request reads its own writes by."""

import asyncio
import time

from galleria.serving.retrieval.searcher import Catalog
from galleria.serving.schemas.problems import too_many_requests, unavailable

MAX_WAITS = 64
"""Requests that wait for a version at a time; more are rejected."""

POLL_INTERVAL_S = 0.01


class VersionWait:
    """Waits until a catalogue that follows its table has caught up with a version.

    A version that a write returned is in the table, so the catalogue has it once it has looked at the table again. One
    that it does not have then is rejected at once, however far ahead it is.

    Args:
        catalog: that follows its table.
        timeout_s: longest wait, in seconds, for a catalogue that does not get to look at its table.
    """

    def __init__(self, catalog: Catalog, timeout_s: float) -> None:
        self._catalog = catalog
        self._timeout_s = timeout_s
        self._waiting = 0

    async def wait(self, version: int) -> None:
        """Wait for a version, or a newer one; it takes no thread.

        Raises:
            ProblemError: 429, too many requests wait; 503, the table has no such version, or cannot be read.
        """
        if self._catalog.state.version >= version:
            return
        if self._waiting >= MAX_WAITS:
            raise too_many_requests(f"{MAX_WAITS} requests wait for their min_version")
        self._waiting += 1
        try:
            await self._wait(version)
        finally:
            self._waiting -= 1

    def check(self, version: int) -> None:
        """Check that the catalogue is at a version, or a newer one.

        Raises:
            ProblemError: 503, it is not.
        """
        newest = self._catalog.state.version
        if newest < version:
            raise unavailable(f"the catalogue is at version {newest}, not yet at {version}: try again")

    async def _wait(self, version: int) -> None:
        started = time.monotonic()
        while self._catalog.state.version < version:
            if self._catalog.refreshed_at > started or time.monotonic() > started + self._timeout_s:
                self.check(version)  # reads the version anew
                return
            await asyncio.sleep(POLL_INTERVAL_S)
