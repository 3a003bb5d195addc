"""Gathers rows into batches that grow with the load."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class DynamicBatcher(Generic[T, R]):
    """A row that comes while a run is free is answered at once, alone; those that wait go together. For one event loop.

    `ray.serve.batch` closes a batch after a time, whether there is a run for it or not: without a wait its batches
    stay small however many rows are waiting, and with one every row pays for it.

    Args:
        answer: one outcome for each row of a batch, in order.
        most: rows in a batch.
        runs: batches under way at a time.
    """

    def __init__(self, answer: Callable[[list[T]], Awaitable[Sequence[R]]], most: int, runs: int) -> None:
        self._answer = answer
        self._most = most
        self._runs = runs
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, row: T) -> R:
        """The outcome of a row. Raises what its batch did."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()
        self._waiting.append((row, outcome))
        if len(self._running) < self._runs:
            run = loop.create_task(self._run())
            self._running.add(run)
            run.add_done_callback(self._running.discard)
        return await outcome

    async def _run(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [(row, outcome) for row, outcome in taken if not outcome.done()]  # whoever asked may be gone
            if batch:
                await self._settle(batch)

    async def _settle(self, batch: Sequence[tuple[T, "asyncio.Future[R]"]]) -> None:
        try:
            found = await self._answer([row for row, _ in batch])
        except Exception as error:
            for _, outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        for (_, outcome), value in zip(batch, found, strict=True):
            if not outcome.done():
                outcome.set_result(value)
