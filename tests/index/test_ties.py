"""Pages of equal scores: every item is on exactly one page, whichever kind of index, delta or shard holds it."""

from dataclasses import replace

import numpy as np
import pytest

from galleria.catalog.items import upserts
from galleria.catalog.live import LiveCatalog
from galleria.index.filters import read_filter
from galleria.index.kinds import KINDS
from galleria.index.ranking import exact_scores
from galleria.index.shard import Shard
from tests.catalog.tables import HASH, create_table, index_of
from tests.index.builds import base, columns, row, unit

COUNT = 3000
PICTURES = 40
PAGE = 20
LAST = 1000
DIMENSION = 30  # of which FAISS and NumPy add the last values separately, in an order of their own

EXACT_KINDS = [kind for kind in KINDS if kind != "HNSW32"]

PICTURE_OF = np.random.default_rng(0).integers(0, PICTURES, COUNT)
VECTORS = unit(PICTURES, DIMENSION)[PICTURE_OF]
QUERY = unit(1, DIMENSION, 9)


def paged(search, last=LAST):
    """Return the hits of all pages of a search for `k` hits."""
    hits = [hit for start in range(0, last, PAGE) for hit in search(start + PAGE)[start:]]
    assert len({hit.key for hit in hits}) == len(hits) == last
    assert hits == search(last)
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.key))
    return hits


def exhaustive(keys, vectors, kind):
    """Return a base whose lists are all searched, so that its results are exact apart from ties."""
    part = base(keys, vectors, kind)
    return replace(part, spec=part.spec.model_copy(update={"effort": part.index.nlist})) if "IVF" in kind else part


@pytest.mark.parametrize("kind", EXACT_KINDS)
@pytest.mark.parametrize("conditions", [None, {"even": True}])
def test_pages_of_index_are_disjoint(kind, conditions):
    allowed = conditions and read_filter(conditions)
    shard = Shard(exhaustive(range(COUNT), VECTORS, kind))
    hits = paged(lambda k: shard.search(QUERY, k, allowed)[0])
    if kind == "Flat":
        scores = np.round(VECTORS @ QUERY[0], 5)
        keys = np.arange(COUNT) if allowed is None else np.arange(0, COUNT, 2)
        assert [hit.key for hit in hits] == keys[np.lexsort((keys, -scores[keys]))][:LAST].tolist()


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_pages_of_index_and_delta_are_disjoint(kind):
    shard = Shard(exhaustive(range(0, COUNT, 2), VECTORS[::2], kind))
    odd = np.arange(1, COUNT, 2, dtype=np.uint64)
    shard.apply(odd, VECTORS[1::2], columns([row(key) for key in odd.tolist()]), np.empty(0, np.uint64))
    paged(lambda k: shard.search(QUERY, k)[0])


def test_pages_of_graph_are_disjoint():
    """Of pictures that a few items share: a graph does not connect many equal vectors."""
    vectors = unit(COUNT // 3, DIMENSION)[np.arange(COUNT) % (COUNT // 3)]
    shard = Shard(base(range(COUNT), vectors, "HNSW32"))
    paged(lambda k: shard.search(QUERY, k)[0], last=200)


@pytest.mark.parametrize("indexed", [True, False])
def test_pages_of_shards_are_disjoint(tmp_path, indexed):
    items = [{"id": f"{number}", "title": f"{number}"} for number in range(COUNT)]
    table = create_table(tmp_path / "table", upserts(items, VECTORS, HASH), dimension=DIMENSION)
    first = create_table(tmp_path / "first", upserts(items[:9], VECTORS[:9], HASH), dimension=DIMENSION)
    index = index_of(table if indexed else first, tmp_path / "index", 3)
    catalog = LiveCatalog(table.path, index, HASH)
    paged(lambda k: catalog.search(QUERY, k)[0])


@pytest.mark.parametrize("kind", ["Flat", "HNSW32"])
def test_tie_of_every_item_is_cut_by_key(kind):
    shard = Shard(base(range(COUNT), VECTORS[:1].repeat(COUNT, 0), kind))
    for k in (1, 30, 2999, 3000, 4000):
        assert [hit.key for hit in shard.search(QUERY, k)[0]] == list(range(min(k, COUNT)))


def test_batch_equals_single_queries():
    shard = Shard(base(range(COUNT), VECTORS, "Flat"))
    queries = unit(50, DIMENSION, 7)
    assert shard.search(queries, 25) == [shard.search(query[None], 25)[0] for query in queries]


@pytest.mark.parametrize("dimension", [3, 32, 64, 100, 257, 512])
def test_exact_scores_depend_on_the_vectors_only(dimension):
    vectors, query = unit(3, dimension), unit(1, dimension, 5)[0]
    scores = [exact_scores(vectors[[0] * count + [1, 2]], query) for count in range(1, 40)]
    assert len({score for some in scores for score in some.tolist()}) == 3
    assert scores[0] == pytest.approx(vectors @ query, abs=1e-6)
