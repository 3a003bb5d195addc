"""Work on the many parts of one request, so that other requests have their turn."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

MAX_CONCURRENT_PARTS = 64
"""Parts of one request in work at a time: enough for full batches of a model."""


async def map_concurrently(
    function: Callable[[S], Awaitable[T]], parts: Collection[S], limit: int = MAX_CONCURRENT_PARTS
) -> list[T]:
    """Return the results of a function for all parts, in their order; at most `limit` are in work at a time.

    An error of one is raised, and ends the work on the others.
    """
    results: dict[int, T] = {}
    numbered = enumerate(parts)

    async def work() -> None:
        for number, part in numbered:
            results[number] = await function(part)
            await asyncio.sleep(0)  # also where the function never waits

    workers = [asyncio.ensure_future(work()) for _ in range(min(limit, len(parts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [results[number] for number in sorted(results)]
