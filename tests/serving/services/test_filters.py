"""Filters of searches over HTTP: numbers are compared exactly, in the index and outside of it."""

import numpy as np
import pytest

from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
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
