"""Pages of hits over HTTP."""

import numpy as np
import pytest

from galleria.catalog.items import deletions, upserts
from galleria.catalog.live import LiveCatalog
from galleria.index.ranking import Cursor
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.schemas.cursor import write_cursor
from tests.catalog.tables import HASH, create_table, index_of, rows, unit
from tests.serving.conftest import LIMITS, FakeModel, ask, fake_app, problem

QUERY = {"vector": [1.0, 2.0, 3.0], "k": 6}


@pytest.fixture
def shop(tmp_path):
    """300 items with 4 vectors, half in the index and half outside of it: the app, the catalogue and its table."""
    items = [{"id": f"{number}", "title": f"{number}"} for number in range(300)]
    vectors = unit(4)[np.arange(300) % 4]
    table = create_table(tmp_path / "table", rows("other"), upserts(items[:150], vectors[:150], HASH))
    index = index_of(table, tmp_path / "index")
    table = table.append(upserts(items[150:], vectors[150:], HASH))
    catalog = LiveCatalog(table.path, index, HASH)
    return fake_app(FakeModel(RuntimeError()), LocalSearcher(catalog, 1)), catalog, table


def test_pages_of_equal_scores_are_disjoint(shop):
    app, _, _ = shop

    def page(offset, k):
        query = {"vector": [1.0, 2.0, 3.0], "k": k, "offset": offset}
        return ask(app, "POST", "/v1/search", json=query).json()["hits"]

    hits = [hit for offset in range(0, LIMITS.results, 5) for hit in page(offset, 5)]
    assert len({hit["id"] for hit in hits}) == LIMITS.results
    assert hits == page(0, LIMITS.results)


def search(app, **fields):
    response = ask(app, "POST", "/v1/search", json=QUERY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_cursor_continues_across_writes(shop):
    app, catalog, table = shop
    before = [hit["id"] for hit in search(app, k=LIMITS.results)["hits"]]
    vectors = unit(4)
    new, page, ids = 0, search(app), []
    while len(ids) + 2 * QUERY["k"] <= LIMITS.results:
        ids += [hit["id"] for hit in page["hits"]]
        table = table.append(upserts([{"id": f"new {new + n}"} for n in range(4)], vectors, HASH))
        table = table.append(deletions([ids[-1]], table.schema))
        catalog.refresh()
        new += 4
        page = search(app, after=page["next"])

    old = [name for name in ids if not name.startswith("new")]
    assert len(ids) == len(set(ids)) > 3 * QUERY["k"]
    assert old == before[: len(old)]


def test_last_page_has_no_next(shop):
    app, _, _ = shop
    one = {"id": {"$in": ["7", "8"]}}

    assert search(app, filter=one, k=3)["next"] is None
    page = search(app, filter=one, k=2)
    assert page["next"] is not None
    last = search(app, filter=one, k=2, after=page["next"])
    assert (last["hits"], last["next"]) == ([], None)
    best = page["hits"][0]["score"]
    assert search(app, k=2, min_score=best + 1)["next"] is None


def test_cursor_works_in_a_batch(shop):
    app, _, _ = shop
    first = search(app)
    queries = [QUERY | {"after": first["next"]}, QUERY | {"offset": 6}, QUERY | {"after": "?"}]

    outcomes = ask(app, "POST", "/v1/search/batch", json={"queries": queries}).json()["outcomes"]

    assert outcomes[0]["answer"]["hits"] == outcomes[1]["answer"]["hits"] == search(app, k=12)["hits"][6:]
    assert outcomes[0]["answer"]["next"] == outcomes[1]["answer"]["next"]
    assert outcomes[2]["status"] == 422


def test_cursor_works_in_a_form(shop):
    app, _, _ = shop
    after = search(app, k=1)["next"]
    response = ask(app, "POST", "/v1/search", files={"after": (None, after), "item": (None, "7"), "k": (None, "2")})
    assert response.status_code == 200, response.text
    assert len(response.json()["hits"]) == 2


@pytest.mark.parametrize("after", ["", "?", "AAAA", "Ä", "A" * 1000, 5, [1], {"score": 1}])
def test_invalid_cursor_is_named(shop, after):
    detail = problem(ask(shop[0], "POST", "/v1/search", json=QUERY | {"after": after}), 422)["detail"]
    assert detail.startswith("after")


def test_cursor_of_another_model_is_rejected(shop):
    after = write_cursor("other", Cursor(0.5, 1, 6))
    detail = problem(ask(shop[0], "POST", "/v1/search", json=QUERY | {"after": after}), 422)["detail"]
    assert "is of another model than the one that responds now: begin at the first page" in detail


def test_cursor_reaches_the_limit_of_hits(shop):
    app, _, _ = shop
    after = search(app, k=LIMITS.results - 2)["next"]
    assert len(search(app, k=2, after=after)["hits"]) == 2
    detail = problem(ask(app, "POST", "/v1/search", json=QUERY | {"k": 3, "after": after}), 422)["detail"]
    assert f"after: follows {LIMITS.results - 2} hits, with k over the limit of {LIMITS.results}" in detail
    detail = problem(ask(app, "POST", "/v1/search", json=QUERY | {"offset": 1, "after": after}), 422)["detail"]
    assert "send one of after and offset" in detail
