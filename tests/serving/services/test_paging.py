"""Pages of hits over HTTP."""

import numpy as np

from galleria.catalog.items import upserts
from galleria.catalog.live import LiveCatalog
from galleria.serving.retrieval.searcher import LocalSearcher
from tests.catalog.tables import HASH, create_table, index_of, rows, unit
from tests.serving.conftest import LIMITS, FakeModel, ask, fake_app


def test_pages_of_equal_scores_are_disjoint(tmp_path):
    """Of 300 items with 4 vectors, half in the index and half outside of it."""
    items = [{"id": f"{number}", "title": f"{number}"} for number in range(300)]
    vectors = unit(4)[np.arange(300) % 4]
    table = create_table(tmp_path / "table", rows("other"), upserts(items[:150], vectors[:150], HASH))
    index = index_of(table, tmp_path / "index")
    table.append(upserts(items[150:], vectors[150:], HASH))
    app = fake_app(FakeModel(RuntimeError()), LocalSearcher(LiveCatalog(table.path, index, HASH), 1))

    def page(offset, k):
        query = {"vector": [1.0, 2.0, 3.0], "k": k, "offset": offset}
        return ask(app, "POST", "/v1/search", json=query).json()["hits"]

    hits = [hit for offset in range(0, LIMITS.results, 5) for hit in page(offset, 5)]
    assert len({hit["id"] for hit in hits}) == LIMITS.results
    assert hits == page(0, LIMITS.results)
