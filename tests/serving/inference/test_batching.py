"""Batches grow with the load, and every row gets its own outcome."""

import asyncio

import pytest

from galleria.serving.inference.batching import DynamicBatcher


class Network:
    """Doubles rows, once `open` is set."""

    def __init__(self):
        self.sizes = []
        self.open = asyncio.Event()

    async def __call__(self, rows):
        self.sizes.append(len(rows))
        await self.open.wait()
        if "bad" in rows:
            raise ValueError("bad")
        return [2 * row for row in rows]


def test_queued_rows_share_a_batch():
    async def run():
        network = Network()
        batcher = DynamicBatcher(network, max_batch_size=5, max_concurrent_batches=2)
        outcomes = []
        for row in range(9):
            outcomes.append(asyncio.ensure_future(batcher(row)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert network.sizes == [1, 1]
        network.open.set()
        assert await asyncio.gather(*outcomes) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        assert network.sizes == [1, 1, 5, 2]
        assert await batcher(7) == 14

    asyncio.run(run())


def test_failed_batch_fails_its_rows_alone():
    async def run():
        network = Network()
        batcher = DynamicBatcher(network, max_batch_size=1, max_concurrent_batches=1)
        outcomes = [asyncio.ensure_future(batcher(row)) for row in (1, "bad", 3)]
        network.open.set()
        values = await asyncio.gather(*outcomes, return_exceptions=True)
        assert (values[0], values[2]) == (2, 6)
        with pytest.raises(ValueError, match="bad"):
            raise values[1]

    asyncio.run(run())


def test_batch_without_an_outcome_fails():
    """Its rows do not wait for ever."""

    async def predict(rows):
        return rows[1:]

    async def run():
        batcher = DynamicBatcher(predict, max_batch_size=4, max_concurrent_batches=1)
        async with asyncio.timeout(10):
            return await asyncio.gather(*map(batcher, range(3)), return_exceptions=True)

    assert {type(outcome) for outcome in asyncio.run(run())} == {ValueError}


def test_cancelled_row_is_not_computed():
    async def run():
        network = Network()
        batcher = DynamicBatcher(network, max_batch_size=4, max_concurrent_batches=1)
        outcomes = [asyncio.ensure_future(batcher(row)) for row in range(4)]
        await asyncio.sleep(0)
        for cancelled in outcomes[1:3]:
            cancelled.cancel()
        network.open.set()
        assert await outcomes[0] == 0
        assert await outcomes[3] == 6
        assert network.sizes == [2]

    asyncio.run(run())
