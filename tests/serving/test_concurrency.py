import asyncio

import pytest

from galleria.serving.concurrency import map_concurrently


class Calls:
    def __init__(self):
        self.in_work = self.peak = self.done = 0

    async def double(self, part: int) -> int:
        self.in_work += 1
        self.peak = max(self.peak, self.in_work)
        await asyncio.sleep(0)
        self.in_work -= 1
        if part < 0:
            raise ValueError("below 0")
        self.done += 1
        return 2 * part


@pytest.mark.parametrize(("count", "limit"), [(0, 4), (1, 4), (4, 4), (100, 4), (100, 1)])
def test_results_keep_the_order_of_parts(count, limit):
    calls = Calls()
    assert asyncio.run(map_concurrently(calls.double, range(count), limit)) == [2 * part for part in range(count)]
    assert calls.peak == min(limit, count)


def test_error_ends_the_work():
    calls = Calls()
    with pytest.raises(ValueError, match="below 0"):
        asyncio.run(map_concurrently(calls.double, [1, -1, *range(100)], 2))
    assert calls.done < 5


def test_others_run_between_parts():
    async def main():
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def at_once(part: int) -> int:
            return part

        other = asyncio.create_task(others())
        await map_concurrently(at_once, range(100), 4)
        other.cancel()
        return turns

    assert asyncio.run(main()) >= 25
