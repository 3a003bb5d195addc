"""The deployment that writes keeps the tables open that are written to, and closes idle ones."""

import asyncio
import re
import shutil
import threading
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from galleria.errors import ConfigurationError, DataError, StorageError
from galleria.pipelines.build_index import build_index
from galleria.serving.config import CatalogLocation
from galleria.serving.retrieval.writer import MAX_OPEN_TABLES, CatalogPut, LocalWriter, WriterServer, WriterStatus
from tests.catalog.tables import HASH, create_table, rows
from tests.serving.conftest import ORIGIN, reference_of


@pytest.fixture
def locations(catalogue, tmp_path):
    """Catalogues of equal tables."""
    config = catalogue.config
    return [
        CatalogLocation(
            str(shutil.copytree(config.table, tmp_path / f"{number}.lance")), config.index, catalogue.bundle.hash
        )
        for number in range(MAX_OPEN_TABLES + 2)
    ]


@pytest.fixture
def make_server(catalogue):
    servers = []

    def make(location, idle_timeout_s):
        servers.append(WriterServer(catalogue.config, reference_of(catalogue.bundle, location), idle_timeout_s))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def write(server, location):
    put = CatalogPut(location, [{"id": "new"}], np.eye(32, dtype=np.float32)[:1])
    [result] = asyncio.run(server.put([put], ORIGIN))
    return result


def delete(writer):
    async def run():
        return await writer.delete(["new"], ORIGIN)

    return asyncio.run(run())


def closings():
    """Threads that close a writer."""
    return [thread for thread in threading.enumerate() if "(close)" in thread.name]


def test_idle_writers_are_closed(make_server, locations):
    server = make_server(locations[0], idle_timeout_s=0)
    writers = []
    for location in locations:
        assert write(server, location).statuses == ("created",)
        writers.append(server._writers[location])
    assert [*server._writers] == locations[-MAX_OPEN_TABLES:]
    for thread in closings():
        thread.join()
    for writer in writers[:-MAX_OPEN_TABLES]:
        with pytest.raises(ConfigurationError, match="closed"):
            delete(writer)
    for writer in writers[-MAX_OPEN_TABLES:]:
        assert delete(writer).statuses == ("deleted",)


def test_writers_in_use_stay_open(make_server, locations):
    server = make_server(locations[0], idle_timeout_s=60)
    for location in locations:
        write(server, location)
    assert [*server._writers] == locations
    for location in locations:
        [result] = asyncio.run(server.delete([location], ["new"], ORIGIN))
        assert result.statuses == ("deleted",)


def test_last_written_table_stays_open(make_server, locations):
    server = make_server(locations[0], idle_timeout_s=0)
    for location in (locations[1], locations[0], locations[2], locations[0], locations[3]):
        write(server, location)
    assert {*server._writers} == {locations[0], locations[3]}


def test_closed_table_is_opened_again(make_server, locations):
    server = make_server(locations[0], idle_timeout_s=0)
    results = [write(server, location) for location in (*locations, locations[0])]
    assert results[-1].statuses == ("unchanged",)
    assert results[-1].version == results[0].version


def test_clients_error_is_returned(make_server, locations):
    server = make_server(locations[0], idle_timeout_s=60)
    outcome = asyncio.run(server.put([CatalogPut(locations[0], [{"id": "new"}], np.ones((1, 3)))], ORIGIN))
    assert isinstance(outcome, DataError)


def test_failed_maintenance_is_tried_less_often(tmp_path, caplog):
    table = create_table(tmp_path / "table", rows("a"))
    location = CatalogLocation(table.path, str(tmp_path / "no index"), HASH)

    with caplog.at_level("ERROR", "ray.serve"), closing(LocalWriter(location, 7, maintenance_interval_s=0.05)):
        deadline = time.monotonic() + 30
        while len(caplog.records) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    waits = [float(re.search(r"next try in (\S+) s", record.getMessage())[1]) for record in caplog.records]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    times = pairwise(record.created for record in caplog.records)
    assert all(later - earlier >= wait - 0.02 for (earlier, later), wait in zip(times, waits, strict=False))


def test_writer_without_work_reports_no_lag(tmp_path):
    """Also after maintenance, which here first fails and then succeeds."""
    table, index = create_table(tmp_path / "table", rows("a")), tmp_path / "index"
    unused = WriterStatus(readable=True, pending_s=0.0, maintenance_failures=0, maintenance_s=0.0)
    with closing(LocalWriter(CatalogLocation(table.path, str(index), HASH), 7)) as writer:
        assert writer.status() == unused

    with closing(LocalWriter(CatalogLocation(table.path, str(index), HASH), 7, maintenance_interval_s=0.01)) as writer:
        deadline = time.monotonic() + 30
        while not writer.status().maintenance_failures:
            assert time.monotonic() < deadline
        build_index(table, index)
        while writer.status() != unused:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_lost_table_is_opened_once_it_is_back(make_server, locations):
    table = Path(locations[0].table)
    moved = table.rename(table.with_name("moved"))
    server = make_server(locations[0], idle_timeout_s=60)
    put = CatalogPut(locations[0], [{"id": "new"}], np.eye(32, dtype=np.float32)[:1])
    outcome = asyncio.run(server.put([put], ORIGIN))
    assert isinstance(outcome, StorageError), "so that the client tries again"
    asyncio.run(server.check_health())
    moved.rename(table)
    assert write(server, locations[0]).statuses == ("created",)


@pytest.mark.parametrize("stuck_after_s", [600, 0.05])
def test_stuck_write_fails_the_health_check(catalogue, locations, stuck_after_s):
    """A write that waits for a slow disk does not, until it has waited for too long."""
    waiting, proceed = threading.Event(), threading.Event()

    class Server(WriterServer):
        """The second of two writes that arrive together waits until the first is logged."""

        def _open(self, location):
            self._audit = SimpleNamespace(log_write=lambda *_: waiting.set() or proceed.wait(60))
            return super()._open(location)

    async def run(server):
        put = CatalogPut(locations[0], [{"id": "new"}], np.eye(32, dtype=np.float32)[:1])
        writing = [asyncio.create_task(server.put([put], ORIGIN)) for _ in range(2)]
        await asyncio.to_thread(waiting.wait, 60)
        while (await server.status(locations[:1]))[0].pending_s <= 0.05:
            await asyncio.sleep(0.01)
        outcome = await asyncio.gather(server.check_health(), return_exceptions=True)
        proceed.set()
        await asyncio.gather(*writing)
        await server.check_health()
        return outcome

    server = Server(catalogue.config, reference_of(catalogue.bundle, locations[0]), stuck_after_s=stuck_after_s)
    [error] = asyncio.run(run(server))
    server.close()
    assert isinstance(error, TimeoutError) == (stuck_after_s < 1)
