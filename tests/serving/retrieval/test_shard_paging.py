"""Pages behind a cursor over shards: the gateway's side and the shards' own, over HTTP."""

import numpy as np
import pytest

from galleria.catalog.items import deletions, item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.serving.config import BundleLocation, CatalogLocation, ServiceConfig
from galleria.serving.resolve import ReleaseRef
from galleria.serving.retrieval.shards import ShardedSearcher, ShardServer
from galleria.serving.schemas.responses import ModelVersion
from galleria.serving.traffic_split import TrafficSplit
from tests.catalog.tables import HASH, create_table, index_of, unit
from tests.serving.conftest import LIMITS, FakeModel, ask, fake_app
from tests.serving.retrieval.test_shards import SHARDS, LocalHandle

COUNT = 300
VECTORS = unit(4)
"""A quarter of the items has each of them, and so one score."""

PAGE = 6


class Shop:
    """Items in shards, half of them in the index and half outside of it, and what is written to them."""

    def __init__(self, folder):
        self.count = COUNT // 2
        self.table = create_table(folder / "table", self._items(range(self.count)))
        location = CatalogLocation(str(self.table.path), str(index_of(self.table, folder / "index", SHARDS)), HASH)
        config = ServiceConfig(models={"mood": "bundle"}, limits=LIMITS, threads=1)
        release = ReleaseRef(ModelVersion(family="fake", hash=HASH), BundleLocation("bundle", HASH), location)
        self.servers = [ShardServer(config, number, TrafficSplit(release)) for number in range(SHARDS)]
        self.location = location
        self.catalog = LiveCatalog(location.table, location.index, HASH, shards=())
        handles = [LocalHandle(server) for server in self.servers]
        self.app = fake_app(FakeModel(RuntimeError()), ShardedSearcher(self.catalog, location, handles, timeout_s=30))
        self.put(COUNT - self.count)

    def put(self, count):
        """Put new items."""
        self.table = self.table.append(self._items(range(self.count, self.count + count)))
        self.count += count
        self.catalog.refresh()

    def delete(self, name):
        self.table = self.table.append(deletions([name], self.table.schema))
        self.catalog.refresh()

    def page(self, **fields):
        query = {"vector": [1.0, 2.0, 3.0], "k": PAGE} | fields
        response = ask(self.app, "POST", "/v1/search", json=query)
        assert response.status_code == 200, response.text
        assert response.json()["shards"] == {"total": SHARDS, "searched": SHARDS}
        return response.json()

    def _items(self, numbers):
        return upserts([{"id": f"{number}"} for number in numbers], VECTORS[np.array(numbers) % len(VECTORS)], HASH)


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    for server in shop.servers:
        server._catalogs.open(shop.location).close()


def test_pages_of_shards_equal_one_page(shop):
    """Items of all shards with one score: each is on one page."""
    expected = shop.page(k=LIMITS.results)["hits"]
    hits, page = [], shop.page()
    while len(hits) + 2 * PAGE <= LIMITS.results:
        hits += page["hits"]
        page = shop.page(after=page["next"])

    assert hits == expected[: len(hits)]
    assert len({hit["score"] for hit in hits}) == 1
    assert {item_key(hit["id"]) % SHARDS for hit in hits} == set(range(SHARDS))


def test_cursor_of_shards_continues_across_writes(shop):
    before = [hit["id"] for hit in shop.page(k=LIMITS.results)["hits"]]
    ids, page = [], shop.page()
    while len(ids) + 2 * PAGE <= LIMITS.results:
        ids += [hit["id"] for hit in page["hits"]]
        shop.put(8)
        shop.delete(ids[-1])
        page = shop.page(after=page["next"])

    old = [name for name in ids if int(name) < COUNT]
    assert len(ids) == len(set(ids)) > 3 * PAGE
    assert old == before[: len(old)]
