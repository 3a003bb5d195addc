"""Releases are exchanged while two gateways and one writer serve: no acknowledged write is missing afterwards."""

import asyncio
import itertools
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from galleria.catalog.table import ProductTable
from galleria.errors import ReleaseChangedError
from galleria.pipelines.build_index import build_index
from galleria.pipelines.releases import ALIASES, Alias, publish, write_alias
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.gateway import Gateway
from galleria.serving.resolve import resolve_all
from galleria.serving.retrieval.writer import CatalogPut, WriterServer
from tests.catalog.tables import titles
from tests.serving.conftest import LIMITS, ORIGIN, write_table

NEWER = Alias(release="products@2")
CLIENTS = 4
WAIT_S = 60


class Deployment(NamedTuple):
    """Two gateways and their writer, all in this process.

    Attributes:
        folder: of the releases.
        tables: of the releases 1 and 2.
        gateways: clients of the gateways.
        load: the second gateway loads no release before this is set.
    """

    folder: Path
    tables: dict[str, Path]
    gateways: list[httpx.AsyncClient]
    load: threading.Event


class SlowGateway(Gateway):
    """A gateway that loads no release before `load` is set."""

    load: threading.Event

    def _make_ready(self, name, reference):
        assert self.load.wait(WAIT_S)
        return super()._make_ready(name, reference)


@pytest.fixture
def config(bundle, tmp_path):
    """A service of two releases of one bundle, each with a table of its own; the alias resolves to the first."""
    folder = tmp_path / "releases"
    for number in (1, 2):
        item = {"id": "first", "title": f"products@{number}"}
        write_table(tmp_path / f"table-{number}", [item], np.eye(32, dtype=np.float32)[:1], bundle.hash)
        build_index(ProductTable(tmp_path / f"table-{number}"), tmp_path / f"index-{number}")
        publish(folder, "products", bundle.path, str(tmp_path / f"table-{number}"), str(tmp_path / f"index-{number}"))
    write_alias(folder, SEARCH, Alias(release="products@1"))
    return ServiceConfig(releases=str(folder), writable=True, limits=LIMITS, runtime="torch", target_latency_s=30)


@asynccontextmanager
async def deployed(config):
    references = resolve_all(config)
    writer = WriterServer(config, references[SEARCH])
    handle = SimpleNamespace(
        **{name: SimpleNamespace(remote=getattr(writer, name)) for name in ("put", "delete", "status")}
    )
    gateways = [kind(config, references, {}, handle) for kind in (Gateway, SlowGateway)]
    gateways[1].load = threading.Event()
    transports = [httpx.ASGITransport(gateway.__serve_build_asgi_app__()) for gateway in gateways]
    clients = [httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") for transport in transports]
    folder = Path(config.releases)
    tables = {f"products@{number}": folder.parent / f"table-{number}" for number in (1, 2)}
    try:
        yield Deployment(folder, tables, clients, gateways[1].load)
    finally:
        gateways[1].load.set()
        for gateway in gateways:
            gateway.close()
        await asyncio.to_thread(writer.close)


class Write(NamedTuple):
    id: str
    gateway: int
    began: float
    response: httpx.Response


class Clients:
    """Clients that write through both gateways in turns, and one that searches, for as long as a block lasts."""

    def __init__(self, service):
        self.service = service
        self.writes = []
        self.searches = []
        self.numbers = itertools.count()
        self.ended = False

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.write()) for _ in range(CLIENTS)] + [asyncio.create_task(self.search())]
        return self

    async def __aexit__(self, *_error):
        self.ended = True
        await asyncio.gather(*self.tasks)

    async def write(self):
        """Put an item of its own, and one that all clients write."""
        while not self.ended:
            number = next(self.numbers)
            began = time.monotonic()
            content = {"title": f"{number}", "vector": [0.0] * 31 + [1.0]}
            items = [{"id": f"new-{number}", **content}, {"id": f"shared-{number % 3}", **content}]
            response = await self.service.gateways[number % 2].put("/v1/items", json={"items": items})
            self.writes.append(Write(f"new-{number}", number % 2, began, response))

    async def search(self):
        while not self.ended:
            for gateway in self.service.gateways:
                self.searches.append(await gateway.post("/v1/search", json={"vector": [1.0] + [0.0] * 31, "k": 1}))

    async def until(self, reached):
        """Wait until the clients have seen something."""
        async with asyncio.timeout(WAIT_S):
            while not reached():
                assert not any(task.done() for task in self.tasks)
                await asyncio.sleep(0.01)

    async def until_written(self, status, *gateways):
        """Wait until each of these gateways has given a few responses to writes that begin from now on."""
        now = time.monotonic()
        for gateway in gateways:
            await self.until(lambda gateway=gateway: len(self.since(now, status, gateway)) >= 3)

    def since(self, began, status=200, *gateways):
        return [
            write
            for write in self.writes
            if write.began >= began
            and write.response.status_code == status
            and (not gateways or write.gateway in gateways)
        ]

    def check(self):
        """Every response is right, or a problem that says to try again; no search fails."""
        assert self.searches
        for search in self.searches:
            assert search.status_code == 200, search.text
            release = search.json()["model"]["release"]
            assert [hit["item"]["title"] for hit in search.json()["hits"]] == [release], "of model and catalogue"
            assert search.json()["catalog"]["release"] == release
        for write in self.writes:
            if write.response.status_code != 200:
                assert "not loaded here yet" in refusal(write.response)


def refusal(response):
    """Why a gateway does not write now; it says when to try again."""
    assert (response.status_code, response.headers["retry-after"]) == (503, "1"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["detail"]


async def set_alias(gateway, alias):
    response = await gateway.put("/v1/aliases/search", json=alias.model_dump())
    assert response.status_code == 200, response.text
    return time.monotonic()


def releases(writes):
    return {tuple(write.response.json()["releases"]) for write in writes}


def test_exchange_loses_no_acknowledged_write(config):
    async def run():
        async with deployed(config) as service, Clients(service) as clients:
            first, second = service.gateways
            await clients.until_written(200, 0, 1)
            exchanged = await set_alias(first, NEWER)
            await clients.until_written(200, 0)
            await clients.until_written(503, 1)
            assert not clients.since(exchanged, 200, 1), "the second gateway has not loaded the release"
            service.load.set()
            await clients.until_written(200, 0, 1)
            assert (await second.get("/v1/aliases")).json()["aliases"]["search"]["release"] == "products@2"
        clients.check()
        late = clients.since(exchanged)
        assert releases(late) == {("products@2",)}
        assert releases(clients.since(0)) == {("products@1",), ("products@2",)}
        stored = [titles(ProductTable(service.tables[f"products@{number}"])) for number in (1, 2)]
        for write in clients.since(0):
            for release in write.response.json()["releases"]:
                assert write.id in stored[release == "products@2"]

    asyncio.run(run())


def test_promoted_canary_has_every_write(config):
    """A canary without searches gets every write: it can be promoted, and the previous release can come back."""

    async def run():
        async with deployed(config) as service, Clients(service) as clients:
            service.load.set()
            first, second = service.gateways
            begun = await set_alias(first, Alias(release="products@1", canary="products@2", canary_weight=0))
            await clients.until_written(200, 0, 1)
            await set_alias(second, Alias(release="products@2", canary="products@1", canary_weight=0))
            await clients.until_written(200, 0, 1)
            refused = len(clients.since(0, 503))
            await set_alias(first, Alias(release="products@1", canary="products@2", canary_weight=0))
            await clients.until_written(200, 0, 1)
            await set_alias(second, NEWER)
            await clients.until_written(200, 0, 1)
            assert len(clients.since(0, 503)) == refused, "gateways that hold both releases need not be of one mind"
        clients.check()
        stored = [titles(ProductTable(service.tables[f"products@{number}"])) for number in (1, 2)]
        written = clients.since(begun)
        assert {write.id for write in written} <= stored[1].keys()
        both = {write.id for write in written if len(write.response.json()["releases"]) == 2}
        assert both <= stored[0].keys()
        assert {search.json()["model"]["release"] for search in clients.searches} == {"products@1", "products@2"}

    asyncio.run(run())


def test_catalogues_have_writes_in_one_order(config):
    """The first of two writes of an item waits for the second catalogue, which is opened slowly."""
    write_alias(Path(config.releases), SEARCH, Alias(release="products@1", canary="products@2", canary_weight=0.1))
    references = resolve_all(config)[SEARCH]
    locations = [reference.catalog for reference in references.all]

    class Server(WriterServer):
        async def _writer(self, location):
            if location == locations[1] and not waiting.is_set():
                waiting.set()
                await proceed.wait()
            return await super()._writer(location)

    def put(title):
        vectors = np.eye(32, dtype=np.float32)[:1]
        return server.put(
            [CatalogPut(location, [{"id": "x", "title": title}], vectors) for location in locations], ORIGIN
        )

    async def run():
        first = asyncio.create_task(put("first"))
        await waiting.wait()
        assert [result.statuses for result in await put("second")] == [("created",), ("created",)]
        proceed.set()
        assert [result.statuses for result in await first] == [("updated",), ("updated",)]

    waiting, proceed = asyncio.Event(), asyncio.Event()
    server = Server(config, references)
    asyncio.run(run())
    server.close()
    assert [titles(ProductTable(location.table))["x"] for location in locations] == ["first", "first"]


def test_unusable_alias_stops_writes_alone(config):
    """A gateway goes on with the previous release; a write there would be missing once the alias is usable."""

    async def run():
        async with deployed(config) as service:
            service.load.set()
            alias = service.folder / ALIASES / "search.json"
            before = alias.read_text()

            async def put():
                return await service.gateways[0].put("/v1/items", json={"items": [{"id": "a", "text": "a"}]})

            for damaged in (before.replace("products@1", "products@9"), before[:-9]):
                alias.write_text(damaged)
                assert "alias" in refusal(await put())
                assert (await service.gateways[0].post("/v1/search", json={"vector": [1.0] * 32})).status_code == 200
            alias.unlink()
            refusal(await put())
            alias.write_text(before)
            assert (await put()).status_code == 200
            assert (await put()).json()["items"] == [{"id": "a", "status": "unchanged", "problem": None}]

    asyncio.run(run())


def test_lost_releases_stop_writes_alone(config):
    """The alias cannot be read: nobody knows where a write belongs. Searches go on."""

    async def run():
        async with deployed(config) as service:
            service.load.set()
            gateway = service.gateways[0]
            moved = service.folder.rename(service.folder.with_name("moved"))
            response = await gateway.put("/v1/items", json={"items": [{"id": "a", "vector": [1.0] * 32}]})
            assert "cannot be reached" in refusal(response)
            refusal(await gateway.put("/v1/aliases/search", json=NEWER.model_dump()))
            assert (await gateway.post("/v1/search", json={"vector": [1.0] * 32})).status_code == 200

            async def until_degraded(*components):
                async with asyncio.timeout(WAIT_S):
                    while [part["component"] for part in await degraded(gateway)] != [*components]:
                        await asyncio.sleep(0.05)

            await until_degraded("aliases")
            moved.rename(service.folder)
            await until_degraded()
            await set_alias(gateway, NEWER)
            response = await gateway.put("/v1/items", json={"items": [{"id": "a", "vector": [1.0] * 32}]})
            assert response.json()["releases"] == ["products@2"]

    asyncio.run(run())


async def degraded(gateway):
    response = await gateway.get("/readyz")
    assert response.status_code == 200, response.text
    return response.json()["degraded"]


@pytest.mark.parametrize("method", ["put", "delete"])
def test_write_during_exchange_is_refused(config, method):
    """The alias changes between the first look at it and the commit."""

    class Server(WriterServer):
        async def _writer(self, location):
            write_alias(Path(config.releases), SEARCH, NEWER)
            return await super()._writer(location)

    references = resolve_all(config)[SEARCH]
    location = references.main.catalog
    server = Server(config, references)
    put = CatalogPut(location, [{"id": "a"}], np.eye(32, dtype=np.float32)[:1])
    request = server.put([put], ORIGIN) if method == "put" else server.delete([location], ["a"], ORIGIN)
    outcome = asyncio.run(request)
    server.close()
    assert isinstance(outcome, ReleaseChangedError)
