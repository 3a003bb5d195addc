"""Pages behind a cursor: every item that stays is on exactly one page, also where items are written between pages."""

import numpy as np
import pytest

from galleria.catalog.items import deletions, item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.index.filters import read_filter
from galleria.index.kinds import Plan
from galleria.index.ranking import Cursor, exact_scores
from galleria.index.shard import MAX_CANDIDATES, Shard
from tests.catalog.tables import HASH, create_table, index_of
from tests.index.builds import base, columns, row, unit
from tests.soak import SOAK

COUNT = 300
DIMENSION = 8
PAGE = 7
POOL = unit(COUNT // 5, DIMENSION)  # five items have each vector, and equal scores
QUERY = unit(1, DIMENSION, 9)


def pages(search, page=PAGE):
    """Yield the pages of a search for `k` hits after a cursor."""
    after, depth = None, 0
    while hits := search(page, after):
        yield hits
        depth += page
        after = Cursor(hits[-1].score, hits[-1].key, depth)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF,Flat"])
@pytest.mark.parametrize("conditions", [None, {"even": True}])
def test_pages_equal_one_long_page(kind, conditions):
    allowed = conditions and read_filter(conditions)
    part = base(range(0, 2 * COUNT, 2), unit(COUNT, DIMENSION), kind)
    shard = Shard(part)
    odd = np.arange(1, COUNT, 2, dtype=np.uint64)
    shard.apply(odd, POOL[odd % len(POOL)], columns([row(key) for key in odd.tolist()]), np.empty(0, np.uint64))

    hits = [hit for hits in pages(lambda k, after: shard.search(QUERY, k, allowed, None, after)[0]) for hit in hits]

    assert hits == shard.search(QUERY, 3 * COUNT, allowed)[0]


def test_cursor_of_long_query_is_exact():
    shard = Shard(base(range(COUNT), POOL[np.arange(COUNT) % len(POOL)], "Flat"))
    query = (QUERY * 3e20).astype(np.float32)

    hits = [hit for hits in pages(lambda k, after: shard.search(query, k, None, None, after)[0]) for hit in hits]

    assert hits == shard.search(query, COUNT)[0]


@pytest.mark.parametrize("kind", ["Flat", "HNSW32"])
def test_cursor_continues_behind_many_items(kind):
    """More of them than a search of a graph looks at."""
    count = MAX_CANDIDATES + 500
    shard = Shard(base(range(count), unit(count, DIMENSION), kind))
    first = shard.search(QUERY, PAGE)[0]
    before = shard.search(QUERY, 3 * PAGE)[0]
    new = np.arange(count, 2 * count, dtype=np.uint64)
    nearest = QUERY + 0.01 * unit(count, DIMENSION, 5)
    nearest /= np.linalg.norm(nearest, axis=1, keepdims=True)
    shard.apply(new, nearest, columns([row(key) for key in new.tolist()]), np.empty(0, np.uint64))

    hits = shard.search(QUERY, 2 * PAGE, None, None, Cursor(first[-1].score, first[-1].key, PAGE))[0]

    assert hits == before[PAGE:]


class Catalogue:
    """A catalogue that changes between pages, and the vectors that it must hold."""

    def __init__(self, folder, shards, seed):
        self.chance = np.random.default_rng(seed)
        self.vectors = {f"{number}": POOL[number % len(POOL)] for number in range(COUNT)}
        self.written = set()
        self.table = create_table(folder / "table", self._rows(list(self.vectors)), dimension=DIMENSION)
        self.index = index_of(self.table, folder / "index", shards, Plan())
        self.live = LiveCatalog(self.table.path, self.index, HASH)

    def change(self):
        """Put new and existing items and delete some; now and then compact, or build the index again."""
        names = [f"{number}" for number in self.chance.choice(2 * COUNT, 12, replace=False)]
        put, deleted = names[:8], names[8:]
        self.vectors |= {name: POOL[self.chance.integers(len(POOL))] for name in put}
        self.table = self.table.append(self._rows(put)).append(deletions(deleted, self.table.schema))
        for name in deleted:
            self.vectors.pop(name, None)
        self.written.update(names)
        action = self.chance.integers(10)
        if action == 0:
            self.table = self.table.compact()
        elif action == 1:
            index_of(self.table, self.index, self.live.state.shard_count)
        self.live.refresh()

    def _rows(self, names):
        vectors = np.stack([self.vectors[name] for name in names])
        return upserts([{"id": name, "title": str(len(self.written))} for name in names], vectors, HASH)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(2 * SOAK))
def test_items_that_stay_are_on_one_page(tmp_path, shards, seed):
    catalogue = Catalogue(tmp_path, shards, seed)
    names = {item_key(name): name for name in catalogue.vectors}
    query = unit(1, DIMENSION, 100 + seed)
    first = dict(catalogue.vectors)
    seen = []
    for hits in pages(lambda k, after: catalogue.live.search(query, k, after=after)[0]):
        seen += [names[hit.key] for hit in hits if names.get(hit.key) not in {None, *catalogue.written}]
        catalogue.change()

    stayed = [name for name in first if name not in catalogue.written]
    scores = dict(zip(stayed, exact_scores(np.stack([first[name] for name in stayed]), query[0]), strict=True))
    expected = sorted(stayed, key=lambda name: (-scores[name], item_key(name)))
    assert [name for name in seen if name in scores] == expected
    assert len(set(seen)) == len(seen)
