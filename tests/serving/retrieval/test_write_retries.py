"""A write that the writer's death interrupts may have been applied: its retry is answered as a success."""

from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.serving.config import CatalogLocation
from galleria.serving.inference.types import Prediction
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.retrieval.writer import LocalWriter, RemoteWriter
from tests.catalog.tables import HASH, create_table, index_of, rows, titles
from tests.serving.conftest import FakeModel, OneTableWriter, ask, fake_app, problem


class DyingWriter:
    """A Serve handle of a writer that dies `deaths` times, each time after it has applied the write."""

    def __init__(self, writer):
        self.writer = writer
        self.deaths = 0
        self.put, self.delete = (SimpleNamespace(remote=self._to(name)) for name in ("put", "delete"))

    def _to(self, method):
        async def remote(*values):
            result = await getattr(self.writer, method)(*values)
            if self.deaths:
                self.deaths -= 1
                raise ActorDiedError()
            return result

        return remote


@pytest.fixture
def service(tmp_path):
    """The gateway of a table that holds "a" and "b", and the handle of its writer."""
    table = create_table(tmp_path / "table", rows("a", "b"))
    index = index_of(table, tmp_path / "index")
    location = CatalogLocation(table.path, str(index), HASH)
    writer = OneTableWriter(LocalWriter(location, 7))
    handle = DyingWriter(writer)
    model = FakeModel(Prediction("h1", {"embedding": np.eye(3, dtype=np.float32)[0]}))
    catalog = LiveCatalog(table.path, index, HASH)
    yield fake_app(model, LocalSearcher(catalog, 1), writer=RemoteWriter(handle, 30)), handle, table
    writer.close()


def delete(app):
    response = ask(app, "DELETE", "/v1/items/a")
    assert response.status_code == 200, response.text
    return [(item["id"], item["status"]) for item in response.json()["items"]]


def test_gateway_retries_delete(service):
    app, handle, table = service
    handle.deaths = 1
    assert delete(app) == [("a", "absent")]
    assert titles(ProductTable(table.path)).keys() == {"b"}


def test_client_retries_delete(service):
    app, handle, table = service
    handle.deaths = 2
    assert problem(ask(app, "DELETE", "/v1/items/a"), 503)["detail"].startswith("the writer is not running")
    assert delete(app) == [("a", "absent")]
    assert titles(ProductTable(table.path)).keys() == {"b"}


def test_delete_is_idempotent(service):
    app, _, table = service
    assert [delete(app), delete(app)] == [[("a", "deleted")], [("a", "absent")]]
    response = ask(app, "DELETE", "/v1/items/never%2Fseen")
    assert (response.status_code, response.json()["version"]) == (200, ProductTable(table.path).version)


@pytest.mark.parametrize("deaths", [1, 2])
def test_put_is_retried(service, deaths):
    app, handle, table = service
    handle.deaths = deaths
    body = {"items": [{"id": "c", "text": "new"}, {"id": "c", "text": "newer"}]}
    response = ask(app, "PUT", "/v1/items", json=body)
    if deaths == 2:
        problem(response, 503)
        response = ask(app, "PUT", "/v1/items", json=body)
    assert response.status_code == 200
    assert {item["status"] for item in response.json()["items"]} <= {"created", "updated", "unchanged"}
    assert ProductTable(table.path).item("c")["text"] == "newer"
