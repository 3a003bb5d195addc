"""DynamicBatcher grow with the load, and every row gets its own outcome."""

import asyncio

import pytest

from galleria.serving.inference.batching import DynamicBatcher


class Network:
    """Doubles rows, and is done only when it is told to."""

    def __init__(self):
        self.sizes = []
        self.open = asyncio.Event()

    async def __call__(self, rows):
        self.sizes.append(len(rows))
        await self.open.wait()
        if "bad" in rows:
            raise ValueError("bad")
        return [2 * row for row in rows]


def test_those_that_wait_go_together_and_nobody_waits_while_a_run_is_free():
    async def run():
        network = Network()
        batches = DynamicBatcher(network, most=5, runs=2)
        asked = []
        for row in range(9):
            asked.append(asyncio.ensure_future(batches(row)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert network.sizes == [1, 1]
        network.open.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        assert network.sizes == [1, 1, 5, 2]
        assert await batches(7) == 14

    asyncio.run(run())


def test_a_batch_that_fails_fails_its_own_rows():
    async def run():
        network = Network()
        batches = DynamicBatcher(network, most=1, runs=1)
        asked = [asyncio.ensure_future(batches(row)) for row in (1, "bad", 3)]
        network.open.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert (found[0], found[2]) == (2, 6)
        with pytest.raises(ValueError, match="bad"):
            raise found[1]

    asyncio.run(run())


def test_a_row_whose_caller_is_gone_is_not_computed():
    async def run():
        network = Network()
        batches = DynamicBatcher(network, most=4, runs=1)
        asked = [asyncio.ensure_future(batches(row)) for row in range(4)]
        await asyncio.sleep(0)
        for gone in asked[1:3]:
            gone.cancel()
        network.open.set()
        assert await asked[0] == 0
        assert await asked[3] == 6
        assert network.sizes == [2]

    asyncio.run(run())
