"""Writes through gateways that see an older version of the table: only the writer decides what is unchanged."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fastapi import FastAPI

from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.pipelines.build_index import build_index
from galleria.serving.config import CatalogLocation
from galleria.serving.inference.types import Prediction
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.retrieval.writer import LocalWriter
from tests.catalog.tables import HASH, create_table, index_of, rows, titles
from tests.serving.conftest import FakeModel, OneTableWriter, ask, fake_app


class Service(NamedTuple):
    """Two gateways and the writer of one table. The gateways do not follow the table by themselves."""

    table: Path
    index: Path
    catalogs: list[LiveCatalog]
    model: FakeModel
    gateways: list[FastAPI]


@pytest.fixture
def service(tmp_path):
    """A service on a table that holds "x" with the text "old"."""
    table = create_table(tmp_path / "table", rows("other"))
    index = index_of(table, tmp_path / "index")
    writer = OneTableWriter(LocalWriter(CatalogLocation(table.path, str(index), HASH), 7))
    model = FakeModel(Prediction("h1", {"embedding": np.eye(3, dtype=np.float32)[0]}))
    first = fake_app(model, LocalSearcher(LiveCatalog(table.path, index, HASH), 1), writer=writer)
    assert put(first, x="old") == ["created"]
    catalogs = [LiveCatalog(table.path, index, HASH) for _ in range(2)]
    apps = [fake_app(model, LocalSearcher(catalog, 1), writer=writer) for catalog in catalogs]
    model.rows.clear()
    yield Service(Path(table.path), index, catalogs, model, apps)
    writer.close()


def put(gateway, *items, **texts):
    """Put items by id and text; return their statuses."""
    items = [{"id": name, "text": text} for name, text in (*items, *texts.items())]
    response = ask(gateway, "PUT", "/v1/items", json={"items": items})
    assert response.status_code == 200, response.text
    return [item["status"] for item in response.json()["items"]]


def text(service, name="x"):
    item = ProductTable(service.table).item(name)
    return item and item["text"]


def test_last_put_wins(service):
    gateway = service.gateways[0]
    assert put(gateway, x="new") == ["updated"]
    assert put(gateway, x="old") == ["updated"]
    assert text(service) == "old"


def test_put_after_delete_creates(service):
    gateway = service.gateways[0]
    assert ask(gateway, "DELETE", "/v1/items/x").status_code == 200
    assert put(gateway, x="old") == ["created"]
    assert text(service) == "old"


def test_delete_finds_what_gateway_has_not_seen(service):
    assert put(service.gateways[0], y="new") == ["created"]
    assert ask(service.gateways[1], "DELETE", "/v1/items/y").status_code == 200
    assert text(service, "y") is None


def test_last_put_wins_between_gateways(service):
    one, other = service.gateways
    assert put(one, x="new") == ["updated"]
    assert put(other, x="old") == ["updated"]
    assert put(one, x="new") == ["updated"]
    assert text(service) == "new"


def test_last_duplicate_in_request_wins(service):
    gateway = service.gateways[0]
    assert put(gateway, ("x", "new"), ("x", "old")) == ["updated", "updated"]
    assert text(service) == "old"
    assert put(gateway, ("x", "old"), ("x", "new"), ("x", "old"), ("x", "old")) == [
        "unchanged",
        "updated",
        "updated",
        "unchanged",
    ]
    assert text(service) == "old"


def test_last_put_wins_while_index_is_rebuilt(service):
    gateway, catalog = service.gateways[0], service.catalogs[0]
    put(gateway, x="new")
    build_index(ProductTable(service.table), service.index)
    put(gateway, x="old")
    assert text(service) == "old"
    catalog.refresh()  # the state is of "old", the index of "new"
    put(gateway, x="new")
    assert put(gateway, x="old") == ["updated"]
    assert text(service) == "old"


def test_unchanged_item_is_not_embedded(service):
    response = ask(service.gateways[0], "PUT", "/v1/items", json={"items": [{"id": "x", "text": "old"}]})
    assert [item["status"] for item in response.json()["items"]] == ["unchanged"]
    assert response.json()["version"] == ProductTable(service.table).version
    assert service.model.rows == []


def test_retry_embeds_every_item_once(service):
    put(service.gateways[0], x="new")
    service.model.rows.clear()
    assert put(service.gateways[1], ("y", "fresh"), ("x", "old"), ("", "bad")) == ["created", "updated", "rejected"]
    assert sorted(row["text"] for row in service.model.rows) == ["fresh", "old"]
    assert titles(ProductTable(service.table)).keys() == {"other", "x", "y"}


def test_clients_read_their_last_write(service):
    """Every client writes its own item, one request after the other, through any gateway."""

    def write(number):
        choose = random.Random(number)
        for _ in range(20):
            gateway = choose.choice(service.gateways)
            current = choose.choice(["old", "new", None])
            if current is None:
                ask(gateway, "DELETE", f"/v1/items/{number}")
            else:
                put(gateway, (f"{number}", current))
            assert text(service, f"{number}") == current
            if choose.random() < 0.2:
                choose.choice(service.catalogs).refresh()

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(write, range(4)))
