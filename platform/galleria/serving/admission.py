"""Turns requests away beyond a number, so that those within it are answered in time and in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from galleria.serving.problems import unavailable


class Admission:
    """Lets `most` requests in at a time.

    Args:
        most: how many.
        what: what they are called in the message to one that is turned away.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._inside = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """A place for as long as a block lasts.

        Raises:
            RefusedError: 503, there is none.
        """
        if self._inside >= self._most:
            raise unavailable(f"{self._most} {self._what} are being answered: try again")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
