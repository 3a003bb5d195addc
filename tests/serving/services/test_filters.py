"""Filters of searches over HTTP: numbers are compared exactly, in the index and outside of it."""

import numpy as np
import pytest

from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.media.limits import LIMITS
from galleria.pipelines.build_index import build_index
from galleria.serving.config import CatalogLocation
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.retrieval.writer import LocalWriter
from tests.catalog.tables import HASH, create_table, index_of, rows
from tests.serving.conftest import FakeModel, OneTableWriter, ask, fake_app, problem

SELLERS = range(1234567890123456000, 1234567890123456040)
"""Neighboring whole numbers, which have 2 different values as floats."""


@pytest.fixture
def app(tmp_path):
    table = create_table(tmp_path / "table", rows("other"))
    index = index_of(table, tmp_path / "index")
    writer = OneTableWriter(LocalWriter(CatalogLocation(table.path, str(index), HASH), 7))
    catalog = LiveCatalog(table.path, index, HASH)
    app = fake_app(FakeModel(RuntimeError()), LocalSearcher(catalog, 1), writer=writer)
    vector = np.eye(3)[0].tolist()
    items = [{"id": f"{seller}", "vector": vector, "attributes": {"seller": seller}} for seller in SELLERS]
    assert ask(app, "PUT", "/v1/items", json={"items": items}).status_code == 200
    catalog.refresh()
    yield app, catalog, index
    writer.close()


@pytest.mark.parametrize("indexed", [False, True])
def test_large_integers_are_filtered_exactly(app, indexed):
    app, catalog, index = app
    if indexed:
        build_index(ProductTable(catalog.state.table.path), index)
        catalog.refresh()
    seller = SELLERS[7]

    def count(condition):
        query = {"vector": [1, 0, 0], "k": 50, "filter": {"seller": condition}}
        response = ask(app, "POST", "/v1/search", json=query)
        assert response.status_code == 200, response.text
        return len(response.json()["hits"])

    assert count(seller) == count({"$in": [seller, 5]}) == 1
    assert count({"$ne": seller}) == count({"$nin": [seller, 5]}) == len(SELLERS)  # and the item without a seller
    assert [count({operator: seller}) for operator in ("$lt", "$lte", "$gt", "$gte")] == [7, 8, 32, 33]
    assert catalog.state.unindexed == (0 if indexed else len(SELLERS))


def test_integer_limits_are_named(app):
    app, _, _ = app
    item = {"id": "a", "vector": [1, 0, 0], "attributes": {"seller": 2**63}}
    response = ask(app, "PUT", "/v1/items", json={"items": [item]})
    assert "-9223372036854775808 to 9223372036854775807" in response.json()["items"][0]["problem"]
    query = {"vector": [1, 0, 0], "filter": {"seller": 2**63}}
    detail = problem(ask(app, "POST", "/v1/search", json=query), 422)["detail"]
    assert "-9223372036854775808 to 9223372036854775807" in detail


def test_too_many_attributes_are_rejected(app):
    app, _, _ = app
    vector = np.eye(3)[0].tolist()
    fits = {f"name {number}": number for number in range(LIMITS.item_attributes)}
    items = [
        {"id": "fits", "vector": vector, "attributes": fits},
        {"id": "over", "vector": vector, "attributes": fits | {"one": "more"}},
    ]

    fits_result, over = ask(app, "PUT", "/v1/items", json={"items": items}).json()["items"]

    assert fits_result == {"id": "fits", "status": "created", "problem": None}
    assert (over["status"], over["problem"][:40]) == ("rejected", "has 65 attributes, over the limit of 64:")


def test_too_many_names_in_a_catalogue_are_rejected(app):
    """Of one item with names of its own after another, until there are as many as the catalogue may have."""
    app, catalog, _ = app
    vector = np.eye(3)[0].tolist()
    own = [
        {"id": f"own {number}", "vector": vector, "attributes": {f"{number} {name}": 1 for name in range(60)}}
        for number in range(20)
    ]

    results = ask(app, "PUT", "/v1/items", json={"items": own}).json()["items"]

    assert [result["status"] for result in results] == ["created"] * 16 + ["rejected"] * 4
    assert "and the catalogue has 961 of at most 1,000: use a name that" in results[-1]["problem"]
    assert ask(app, "DELETE", "/v1/items/own 3").status_code == 200
    assert ask(app, "PUT", "/v1/items", json={"items": own[-1:]}).json()["items"][0]["status"] == "created"
    catalog.refresh()
    hits = ask(app, "POST", "/v1/search", json={"vector": vector, "filter": {"19 7": 1}}).json()["hits"]
    assert [hit["id"] for hit in hits] == ["own 19"]
