"""Requests that wait for a version of the catalogue."""

import asyncio
import math
import threading

import httpx
import numpy as np
import pytest

from galleria.serving.config import SEARCH
from galleria.serving.http.admission import INITIAL_LIMIT
from galleria.serving.inference.types import Prediction
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.services.version_wait import MAX_WAITS, VersionWait
from tests.serving.conftest import FakeModel, FakeSearcher, FakeState, fake_app

FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})


class Behind(FakeSearcher):
    """A catalogue that has not looked at its table since version 7."""

    def __init__(self):
        self.state = FakeState(version=7)
        self.refreshed_at = 0.0


async def statuses(tasks):
    return [answer.status_code for answer in await asyncio.gather(*tasks)]


def paths(version: int):
    return [
        ("POST", "/v1/search", {"text": "a", "min_version": version}),
        ("POST", "/v1/search/batch", {"queries": [{"text": "a", "min_version": version}]}),
        ("GET", f"/v1/items/a?min_version={version}", None),
    ]


@pytest.mark.parametrize(("method", "path", "body"), paths(9))
def test_waiting_requests_hold_no_capacity(method, path, body):
    catalog = Behind()
    app = fake_app(FakeModel(FOUND), catalog, max_concurrent_queries=20)
    limit = app.state.services.admission.model(SEARCH)

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            count = 16 if "batch" in path else MAX_WAITS  # a batch counts as a query once it is released
            waiting = [asyncio.create_task(client.request(method, path, json=body)) for _ in range(count)]
            for _ in range(10):
                await asyncio.sleep(0)
            threads = threading.active_count()
            others = await statuses(client.post("/v1/search", json={"text": "a"}) for _ in range(10))
            assert others == [200] * 10
            assert not any(task.done() for task in waiting)
            assert threading.active_count() <= threads + 2
            assert limit.in_flight == 0
            catalog.state = FakeState(version=9)
            return await statuses(waiting)

    assert set(asyncio.run(main())) == {200}
    assert limit.limit >= INITIAL_LIMIT, "the wait does not count as latency"


@pytest.mark.parametrize(("method", "path", "body"), paths(10**15))
def test_version_beyond_the_table_is_rejected(method, path, body):
    app = fake_app(FakeModel(FOUND))  # has looked at its table

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.request(method, path, json=body)

    answer = asyncio.run(main())
    outcome = answer.json()["outcomes"][0] if "batch" in path else {"status": answer.status_code}
    assert outcome["status"] == 503
    assert "at version 7, not yet at 1000000000000000" in answer.text


def test_refreshed_catalogue_ends_the_wait():
    """Not only the timeout, of years."""

    async def main():
        async with asyncio.timeout(30):
            await VersionWait(FakeSearcher(), timeout_s=1e9).wait(8)

    with pytest.raises(ProblemError, match="at version 7, not yet at 8"):
        asyncio.run(main())


def test_waits_are_bounded():
    async def main():
        wait = VersionWait(Behind(), timeout_s=60)
        tasks = [asyncio.create_task(wait.wait(8)) for _ in range(MAX_WAITS)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="wait for their min_version") as error:
            await wait.wait(8)
        assert (error.value.status, error.value.headers) == (429, {"Retry-After": "1"})
        await wait.wait(7)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        catalog_wait = asyncio.create_task(wait.wait(8))
        await asyncio.sleep(0)
        assert not catalog_wait.done(), "the capacity of one that was cancelled is free again"
        for task in (*tasks, catalog_wait):
            task.cancel()
        await asyncio.wait([*tasks, catalog_wait])

    asyncio.run(main())


class Published(Behind):
    """Publishes version 8 between two reads of a request."""

    reads = 0

    @property
    def refreshed_at(self):
        self.reads += 1
        if self.reads > 2:
            self.state = FakeState(version=8)
            return math.inf
        return 0.0

    @refreshed_at.setter
    def refreshed_at(self, value):
        pass


def test_version_published_meanwhile_is_found():
    asyncio.run(VersionWait(Published(), timeout_s=60).wait(8))


def test_stuck_catalogue_ends_the_wait():
    with pytest.raises(ProblemError, match="at version 7, not yet at 8"):
        asyncio.run(VersionWait(Behind(), timeout_s=0.02).wait(8))
