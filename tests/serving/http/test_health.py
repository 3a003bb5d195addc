"""Storage disappears and comes back: errors say to try again, and readiness and metrics say what is wrong."""

import os
import random
import shutil
import time
from dataclasses import replace

import pytest

from galleria.catalog.live import FollowerStatus
from galleria.catalog.table import ProductTable
from galleria.pipelines.build_index import build_index
from galleria.serving.config import SEARCH, CatalogLocation
from galleria.serving.inference.types import Prediction
from galleria.serving.retrieval.writer import LocalWriter, WriterStatus
from galleria.serving.schemas.problems import unavailable
from galleria.serving.schemas.responses import ShardStatus
from galleria.serving.services.health import HealthService
from tests.serving.conftest import FakeModel, FakeSearcher, OneTableWriter, ask, fake_app, local_app, problem

VECTOR = [1.0] * 32
WAIT_S = 60


def lost(table):
    """The table's folder is renamed away."""
    moved = table.rename(table.with_name("moved"))
    return lambda: moved.rename(table)


def replaced(table):
    """There is a file in its place."""
    restore = lost(table)
    table.write_text("")

    def back():
        table.unlink()
        restore()

    return back


def without_versions(table):
    """The rows are there, and nothing says which."""
    moved = (table / "_versions").rename(table.with_name("versions"))
    return lambda: moved.rename(table / "_versions")


def unmounted(table):
    """An empty folder is left, as where a file system was mounted."""
    restore = lost(table)
    table.mkdir()

    def back():
        table.rmdir()
        restore()

    return back


@pytest.fixture
def table(catalogue, tmp_path):
    return shutil.copytree(catalogue.config.table, tmp_path / "table.lance")


@pytest.fixture
def app(catalogue, table):
    """A service on a table that may disappear; not ready after a tenth of a second of it."""
    app = local_app(
        catalogue.config.model_copy(update={"table": str(table), "writable": True}), {SEARCH: catalogue.bundle}
    )
    services = app.state.services
    health = HealthService(services.models, services.search, None, None, services.draining, unready_after_s=0.1)
    app.state.services = replace(services, health=health)
    yield app
    services.search.split.main.close()


def statuses(app, *routes):
    return [ask(app, "GET", route).status_code for route in routes]


def wait_for(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metric(app, name):
    lines = ask(app, "GET", "/metrics").text.splitlines()
    [value] = [line.split()[-1] for line in lines if line.startswith(f"galleria_{name} ")]
    return float(value)


@pytest.mark.parametrize("harm", [lost, replaced, without_versions, unmounted])
def test_lost_table_is_503_and_recovers(app, catalogue, table, harm):
    ready = ("/readyz", "/v2/health/ready")
    assert statuses(app, *ready) == [200, 200]
    back = harm(table)
    for method, path, options in (
        ("PUT", "/v1/items", {"json": {"items": [{"id": "new", "vector": VECTOR}]}}),
        ("DELETE", f"/v1/items/{catalogue.ids[0]}", {}),
    ):
        response = ask(app, method, path, **options)
        assert problem(response, 503)["type"] == "urn:galleria:problem:storage-unavailable"
        assert response.headers["retry-after"] == "1"
    query = {"vector": VECTOR, "k": 50}
    reads = [ask(app, "POST", "/v1/search", json=query).status_code]
    reads += statuses(app, *(f"/v1/items/{catalogue.ids[1]}{part}" for part in ("", "/image")))
    assert set(reads) <= {200, 503}, "what is in memory or open can be read"
    wait_for(lambda: statuses(app, *ready) == [503, 503])
    assert "could not be read" in problem(ask(app, "GET", "/readyz"), 503)["detail"]
    assert (metric(app, "ready"), metric(app, "catalog_lag_seconds") > 0.1) == (0, True)
    assert statuses(app, "/livez", "/v2/models/search/ready") == [200, 200], "a restart would not help"

    back()
    wait_for(lambda: statuses(app, *ready) == [200, 200])
    written = ask(app, "PUT", "/v1/items", json={"items": [{"id": "new", "vector": VECTOR}]}).json()
    assert [item["status"] for item in written["items"]] == ["created"]
    assert ask(app, "POST", "/v1/search", json={**query, "min_version": written["version"]}).status_code == 200
    assert (metric(app, "ready"), metric(app, "catalog_lag_versions")) == (1, 0)
    assert ProductTable(table).item("new") is not None


def missing(file):
    file.unlink()


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [missing, cut])
def test_lost_data_file_is_503_and_recovers(app, catalogue, table, harm):
    [file] = (table / "data").iterdir()
    saved = file.read_bytes()
    harm(file)
    wait_for(lambda: statuses(app, "/readyz", "/v2/health/ready") == [503, 503])
    for response in (
        ask(app, "POST", "/v1/search", json={"vector": VECTOR, "k": 50}),
        ask(app, "GET", f"/v1/items/{catalogue.ids[1]}"),
        ask(app, "GET", f"/v1/items/{catalogue.ids[1]}/image"),
    ):
        assert problem(response, 503)["type"] == "urn:galleria:problem:storage-unavailable"
        assert str(table) not in response.text
    file.write_bytes(saved)
    wait_for(lambda: statuses(app, "/readyz", "/v2/health/ready") == [200, 200])
    assert ask(app, "POST", "/v1/search", json={"vector": VECTOR, "k": 50}).status_code == 200


def test_damaged_rows_are_reported(app, table):
    """The file is there, and as long as before."""
    [file] = (table / "data").iterdir()
    file.write_bytes(random.Random(0).randbytes(file.stat().st_size))
    problem(ask(app, "POST", "/v1/search", json={"vector": VECTOR, "k": 50}), 503)
    assert "could not be read" in degraded(app)["catalogue"]


class Searcher(FakeSearcher):
    """One of two shards responds, or as many as `responding`."""

    state = FakeSearcher.state._replace(shard_count=2)
    responding = 1

    async def shards(self):
        return [ShardStatus(kind="Flat", indexed=1, unindexed=0)] * self.responding


class Writer:
    """Reports `outcome`."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def status(self, locations):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [self.outcome for _ in locations]


MODEL = FakeModel(Prediction("h1", {}))


def degraded(app):
    response = ask(app, "GET", "/readyz")
    assert response.status_code == 200, response.text
    return {part["component"]: part["problem"] for part in response.json()["degraded"]}


def degraded_metrics(app):
    lines = ask(app, "GET", "/metrics").text.splitlines()
    values = [line.split('"') for line in lines if line.startswith("galleria_degraded{")]
    return [component for _, component, value in values if float(value.removeprefix("}")) == 1]


def test_missing_shards_are_reported():
    searcher = Searcher()
    app = fake_app(MODEL, searcher)
    assert degraded(app) == {"shards": "1 of 2 shards respond: results are partial"}
    assert (metric(app, "shards_responding"), degraded_metrics(app)) == (1, ["shards"])
    searcher.responding = 0
    assert "none of 2 shards" in problem(ask(app, "GET", "/readyz"), 503)["detail"]
    searcher.responding = 2
    assert (degraded(app), degraded_metrics(app)) == ({}, [])


@pytest.mark.parametrize(
    ("status", "components"),
    [
        (unavailable("the writer is not running"), ["writer"]),
        (WriterStatus(readable=False), ["writer"]),
        (WriterStatus(pending_s=40), ["writer"]),
        (WriterStatus(maintenance_failures=3), ["maintenance"]),
        (WriterStatus(maintenance_s=5 * 3600), ["maintenance"]),
        (WriterStatus(pending_s=1, maintenance_failures=2, maintenance_s=3600), []),
    ],
)
def test_writer_degrades_readiness(status, components):
    app = fake_app(MODEL, writer=Writer(status))
    assert [*degraded(app)] == components
    assert degraded_metrics(app) == components


@pytest.mark.parametrize(
    ("status", "code", "components"),
    [
        (FollowerStatus(lag_s=40, lag_versions=0, failing_s=0), 200, ["catalogue"]),
        (FollowerStatus(lag_s=9, lag_versions=3, failing_s=9), 200, []),
        (FollowerStatus(lag_s=11, lag_versions=0, failing_s=11), 503, []),
    ],
)
def test_lagging_catalogue_is_reported(status, code, components):
    searcher = FakeSearcher()
    searcher.status = status
    app = fake_app(MODEL, searcher)
    assert statuses(app, "/readyz", "/v2/health/ready") == [code, code]
    assert metric(app, "catalog_lag_versions") == status.lag_versions
    assert metric(app, "catalog_lag_seconds") == status.lag_s
    assert degraded_metrics(app) == components


def test_failing_maintenance_is_reported(catalogue, table, tmp_path):
    """Its index is missing, until one is built."""
    location = CatalogLocation(str(table), str(tmp_path / "index"), catalogue.bundle.hash)
    writer = OneTableWriter(LocalWriter(location, 7, maintenance_interval_s=0.01))
    app = fake_app(MODEL, writer=writer)
    wait_for(lambda: "maintenance" in degraded(app))
    assert metric(app, "maintenance_failures") >= 3
    assert ask(app, "DELETE", "/v1/items/none").status_code == 200
    build_index(ProductTable(table), tmp_path / "index")
    wait_for(lambda: degraded(app) == {})
    assert metric(app, "maintenance_failures") == 0
    writer.close()
