"""Batches rows; batches grow with the load."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class DynamicBatcher(Generic[T, R]):
    """Runs a row at once and alone while a run is free, and queued rows together. For one event loop.

    `ray.serve.batch` closes a batch after a time, whether there is a run for it or not: without a wait its batches
    stay small however many rows are queued, and with one every row pays for it.

    Args:
        predict: returns one outcome for each row of a batch, in order.
        max_batch_size: rows in a batch.
        max_concurrent_batches: batches that run at a time.
    """

    def __init__(
        self, predict: Callable[[list[T]], Awaitable[Sequence[R]]], max_batch_size: int, max_concurrent_batches: int
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._max_concurrent_batches = max_concurrent_batches
        self._queue: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, row: T) -> R:
        """Return the outcome of a row. Raises what its batch did."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()
        self._queue.append((row, outcome))
        if len(self._running) < self._max_concurrent_batches:
            task = loop.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await outcome

    async def _run(self) -> None:
        while self._queue:
            size = min(self._max_batch_size, len(self._queue))
            queued = [self._queue.popleft() for _ in range(size)]
            batch = [(row, outcome) for row, outcome in queued if not outcome.done()]  # its client may have cancelled
            if batch:
                await self._run_batch(batch)

    async def _run_batch(self, batch: Sequence[tuple[T, "asyncio.Future[R]"]]) -> None:
        rows, outcomes = zip(*batch, strict=True)
        try:
            values = [*zip(outcomes, await self._predict([*rows]), strict=True)]
        except Exception as error:
            for outcome in outcomes:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        for outcome, value in values:
            if not outcome.done():
                outcome.set_result(value)
