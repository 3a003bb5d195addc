"""A shard returns what brute force returns for the current items, also while it changes."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import DataError
from galleria.index.base import Base
from galleria.index.filters import read_filter
from galleria.index.kinds import KINDS
from galleria.index.selection import EXACT_VALUES
from galleria.index.shard import Neighbor, Shard
from galleria.index.view import View
from tests.index.builds import COLOURS, base, clustered, columns, row, unit
from tests.soak import SOAK

COUNT = 500
NOTHING = np.zeros(0, np.uint64)

FILTERS: list[tuple[dict[str, Any] | None, Any]] = [
    (None, lambda _: True),
    ({"colour": "red"}, lambda key: key % 4 == 0),
    ({"colour": {"$in": ["red", "blue"]}, "even": True}, lambda key: key % 4 in (0, 2)),
    ({"number": {"$lt": 30}}, lambda key: key < 30),
    ({"category": {"$prefix": ["Shop", "Shelf 3"]}}, lambda key: key % 10 == 3),
    ({"$not": {"id": "item 7"}}, lambda key: key != 7),
    ({"colour": "purple"}, lambda _: False),
]
"""Each with its meaning for the item of a key."""


def keys_of(hits: Iterable[Neighbor]) -> list[int]:
    return [hit.key for hit in hits]


def put(shard: Shard, items: Mapping[int, np.ndarray], deleted: Iterable[int] = ()) -> None:
    keys = np.array(list(items), np.uint64)
    vectors = np.array(list(items.values()), np.float32).reshape(len(items), shard.dimension)
    shard.apply(keys, vectors, columns([row(key) for key in items]), np.array(list(deleted), np.uint64))


@dataclass
class Oracle:
    """The same items in a dictionary, and changes to both."""

    shard: Shard
    items: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, part: Base, vectors: np.ndarray, exact_values: int = EXACT_VALUES) -> "Oracle":
        return cls(Shard(part, exact_values), dict(zip(part.keys.tolist(), vectors, strict=True)))

    def change(self, upserted: list[int], deleted: list[int], seed: int) -> None:
        fresh = dict(zip(upserted, clustered(len(upserted), self.shard.dimension, seed), strict=True))
        put(self.shard, fresh, deleted)
        self.items = {key: vector for key, vector in self.items.items() if key not in deleted} | fresh

    def check(self, query: np.ndarray, k: int, conditions: Any, meets: Any) -> float:
        """Check the results of a search, and return its recall; only the recall may be below 1."""
        allowed = None if conditions is None else read_filter(conditions)
        hits = self.shard.search(query[None], k, allowed)[0]
        may = [key for key in self.items if meets(key)]
        scores = np.array([self.items[key] for key in may]).reshape(len(may), len(query)) @ query
        keys = keys_of(hits)
        assert len(hits) == min(k, len(may))
        assert len(set(keys)) == len(keys)
        assert set(keys) <= set(may)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        if not hits:
            return 1.0
        min_score = np.sort(scores)[-len(hits)] - 1e-5
        return float(np.mean([self.items[key] @ query >= min_score for key in keys]))


@st.composite
def changes(draw, max_key: int, steps: int) -> list[tuple[list[int], list[int]]]:
    """Keys that are put in and keys that are taken out, none in both, step by step."""
    keys = st.lists(st.integers(0, max_key), unique=True, max_size=20)
    drawn = draw(st.lists(st.tuples(keys, keys), max_size=steps))
    return [(put_in, [key for key in out if key not in put_in]) for put_in, out in drawn]


@settings(deadline=None, max_examples=20 * SOAK, derandomize=True)
@given(
    count=st.integers(0, 60),
    dimension=st.integers(1, 16),
    k=st.integers(1, 90),
    steps=changes(70, 5),
    number=st.sampled_from(range(len(FILTERS))),
    seed=st.integers(0, 99),
)
def test_scan_matches_brute_force(count, dimension, k, steps, number, seed):
    vectors = clustered(count, dimension, seed)
    oracle = Oracle.of(base(range(count), vectors), vectors)
    for step, (upserted, deleted) in enumerate(steps):
        oracle.change(upserted, deleted, seed=1000 + step)

    for query in unit(3, dimension, seed + 500):
        assert oracle.check(query, k, *FILTERS[number]) == 1
    assert oracle.shard.view.count == len(oracle.items)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(COUNT, 16)


@pytest.fixture(scope="module")
def bases(vectors) -> dict[str, Base]:
    return {kind: base(range(COUNT), vectors, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=5 * SOAK, derandomize=True)
@given(
    k=st.sampled_from([1, 3, 10, 50, 400, 2000]),
    steps=changes(COUNT + 50, 6),
    deleted_count=st.sampled_from([0, 10, 200, COUNT - 10]),
    number=st.sampled_from(range(len(FILTERS))),
    seed=st.integers(0, 99),
    exact_values=st.sampled_from([0, EXACT_VALUES]),
)
def test_search_returns_only_allowed_items(bases, vectors, kind, k, steps, deleted_count, number, seed, exact_values):
    oracle = Oracle.of(bases[kind], vectors, exact_values)
    oracle.change([], np.random.default_rng(seed).permutation(COUNT)[:deleted_count].tolist(), seed)
    for step, (upserted, deleted) in enumerate(steps):
        oracle.change(upserted, deleted, seed=1000 + step)

    recalls = [oracle.check(query, k, *FILTERS[number]) for query in clustered(3, 16, seed + 500)]

    assert kind != "Flat" or recalls == [1, 1, 1]


@pytest.mark.parametrize("kind", ["HNSW32", "IVF,Flat"])
@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_recall_with_filter_and_changes(bases, vectors, kind, number):
    oracle = Oracle.of(bases[kind], vectors, exact_values=0)
    chance = np.random.default_rng(number)
    oracle.change(chance.permutation(COUNT)[:50].tolist(), [], 1)
    oracle.change([], chance.permutation(COUNT)[:100].tolist(), 2)

    queries = vectors[:100] + 0.25 * unit(100, 16, seed=77)
    recalls = [oracle.check(query, 10, *FILTERS[number]) for query in queries]

    assert np.mean(recalls) >= 0.97


def test_apply_moves_item():
    shard = Shard(base([0, 1], np.eye(2, 4, dtype=np.float32)))
    axes = np.eye(4, dtype=np.float32)

    put(shard, {0: axes[2]})
    assert shard.search(axes[2:3], 1) == [[Neighbor(0, 1.0)]]
    assert shard.search(axes[0:1], 2) == [[Neighbor(0, 0.0), Neighbor(1, 0.0)]]

    put(shard, {0: axes[3]})
    assert shard.search(axes[3:4], 1) == [[Neighbor(0, 1.0)]]
    assert shard.view.count == 2


def test_apply_deletes_and_restores_item():
    axes = np.eye(4, dtype=np.float32)
    shard = Shard(base([0, 1], axes[:2]))

    put(shard, {}, deleted=[0])
    assert keys_of(shard.search(axes[:1], 5)[0]) == [1]
    put(shard, {0: axes[0]})
    assert keys_of(shard.search(axes[:1], 5)[0]) == [0, 1]
    put(shard, {}, deleted=[0, 1])
    assert shard.search(axes[:1], 5) == [[]]
    assert shard.view.count == 0


def test_apply_ignores_unknown_deletions():
    shard = Shard(base([0, 1], unit(2, 4)))

    put(shard, {}, deleted=[7, 8])

    assert shard.view.count == 2 and len(shard.search(unit(1, 4), 5)[0]) == 2


def test_apply_fills_empty_base():
    shard = Shard(base([], np.zeros((0, 4), np.float32)))
    assert shard.search(unit(2, 4), 3) == [[], []]

    put(shard, {5: unit(1, 4)[0]})

    assert keys_of(shard.search(unit(1, 4), 3, read_filter({"number": 5}))[0]) == [5]


def test_filter_reads_newest_fields():
    shard = Shard(base([0], unit(1, 4)))
    renamed = columns([{"id": "item 0", "attributes": {"colour": "purple"}}])
    shard.apply(np.array([0], np.uint64), unit(1, 4), renamed, NOTHING)

    assert keys_of(shard.search(unit(1, 4), 1, read_filter({"colour": "purple"}))[0]) == [0]
    assert shard.search(unit(1, 4), 1, read_filter({"colour": "red"})) == [[]]


def test_filter_covers_many_changes():
    shard = Shard(base([], np.zeros((0, 8), np.float32)))
    vectors = unit(1500, 8)
    for start in range(
        0, 1500, 15
    ):  # a hundred changes, more chunks than are kept, and more rows than the initial capacity
        put(shard, dict(zip(range(start, start + 15), vectors[start : start + 15], strict=True)))

    for number in (0, 777, 1499):
        assert keys_of(shard.search(vectors[number : number + 1], 3, read_filter({"number": number}))[0]) == [number]
    hits = shard.search(unit(1, 8), 2000, read_filter({"colour": "green"}))[0]
    assert sorted(keys_of(hits)) == list(range(1, 1500, 4))
    assert shard.view.rows == 1500 and len(shard.view.chunks) <= 64


def test_search_with_older_view_is_unchanged(bases, vectors):
    for kind in KINDS:
        shard = Shard(bases[kind])
        put(shard, dict(zip(range(1000, 1010), unit(10, 16, seed=5), strict=True)), deleted=range(50))
        queries, red = unit(5, 16, seed=6), read_filter({"colour": "red"})
        view, before = shard.view, shard.search(queries, 20, red)

        put(shard, dict(zip(range(1000, 1005), unit(5, 16, seed=7), strict=True)), deleted=range(50, 500))
        put(shard, dict(zip(range(2000, 4000), unit(2000, 16, seed=8), strict=True)))

        assert shard.search(queries, 20, red, view) == before
        assert shard.search(queries, 20, red) != before


def test_concurrent_searches_see_full_changes():
    axes = np.eye(8, dtype=np.float32)
    shard = Shard(base(range(8), axes))
    ended, wrong, searches = threading.Event(), [], [0, 0, 0]

    def search(number: int) -> None:
        allowed = [None, read_filter({"number": {"$lt": 8}}), read_filter({"even": {"$in": [True, False]}})][number]
        while not ended.is_set() or searches[number] < 20:
            hits = shard.search(np.ones((1, 8), np.float32), 20, allowed)[0]
            searches[number] += 1
            # Items move together from one axis to the next, so that every state has one of each.
            if sorted(keys_of(hits)) != list(range(8)) or any(abs(hit.score - 1) > 1e-5 for hit in hits):
                wrong.append(hits)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for step in range(300):
        put(shard, {key: axes[(key + step) % 8] for key in range(8)})
    ended.set()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert min(searches) >= 20
    assert shard.view.rows == 2400 and shard.view.count == 8


def test_concurrent_scores_match_view():
    axes = np.eye(2, dtype=np.float32)
    shard = Shard(base([0, 1], axes))
    ended, wrong = threading.Event(), []

    def search() -> None:
        while not ended.is_set():
            scores = sorted(one.score for one in shard.search(axes[:1], 2)[0])
            if scores != [0, 1]:  # both are swapped at once
                wrong.append(scores)

    thread = threading.Thread(target=search)
    thread.start()
    for step in range(500):
        put(shard, {0: axes[step % 2], 1: axes[1 - step % 2]})
    ended.set()
    thread.join()

    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_batch_matches_single_queries(bases, kind):
    shard = Shard(bases[kind])
    put(shard, dict(zip(range(1000, 1100), unit(100, 16, seed=5), strict=True)), deleted=range(100))
    queries = clustered(30, 16, seed=9)

    together = shard.search(queries, 10)
    alone = [shard.search(query[None], 10)[0] for query in queries]

    for batch, single in zip(together, alone, strict=True):
        assert keys_of(batch) == keys_of(single)
        assert [one.score for one in batch] == pytest.approx([one.score for one in single], abs=1e-5)


def test_no_queries_have_no_results(bases):
    for kind in KINDS:
        shard = Shard(bases[kind])
        put(shard, {5: unit(1, 16)[0]})
        assert shard.search(np.zeros((0, 16), np.float32), 5) == []


def test_equal_scores_are_ordered_by_key():
    same = np.repeat(np.eye(1, 4, dtype=np.float32), 30, axis=0)
    shard = Shard(base(range(20), same[:20]))
    put(shard, dict(zip(range(20, 30), same[20:], strict=True)))
    put(shard, dict(zip(range(3), same[:3], strict=True)))  # moved into the delta, with the same vector

    answers = {tuple(keys_of(shard.search(same[:1], 30)[0])) for _ in range(10)}
    fewer = {tuple(keys_of(shard.search(same[:1], 7)[0])) for _ in range(10)}

    assert answers == {tuple(range(30))}
    assert len(fewer) == 1 and all(keys == tuple(sorted(keys)) for keys in fewer)


@pytest.mark.parametrize("length", [1e-30, 1e-3, 7, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_query_length_scales_scores(bases, kind, length):
    shard = Shard(bases[kind])
    put(shard, dict(zip(range(5), unit(5, 16, seed=5), strict=True)))
    queries = unit(5, 16, seed=1)

    for one, other in zip(
        shard.search(queries, 5), shard.search((queries * length).astype(np.float32), 5), strict=True
    ):
        assert keys_of(one) == keys_of(other)
        assert [x.score * length for x in one] == pytest.approx([x.score for x in other], rel=1e-4, abs=1e-5 * length)


@pytest.mark.parametrize("shape", [(1, 15), (1, 17), (16,), (1, 1, 16), (1, 0)])
def test_search_rejects_other_dimension(bases, shape):
    with pytest.raises(DataError, match=f"the vector has {shape[-1]} values, the index has 16"):
        Shard(bases["Flat"]).search(np.ones(shape, np.float32), 5)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_search_rejects_zero_or_infinite_query(bases, value):
    queries = unit(3, 16)
    queries[1] = 0
    queries[1, 0] = value

    with pytest.raises(DataError, match="zero or not finite"):
        Shard(bases["Flat"]).search(queries, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_search_rejects_k_below_one(bases, k):
    with pytest.raises(DataError, match=f"k={k} is below 1"):
        Shard(bases["Flat"]).search(unit(1, 16), k)


@pytest.mark.parametrize("kind", KINDS)
def test_search_returns_all_items(bases, kind):
    hits = Shard(bases[kind]).search(unit(1, 16), 10**9)[0]

    assert sorted(keys_of(hits)) == list(range(COUNT))


def test_invalid_apply_changes_nothing():
    shard = Shard(base(range(4), unit(4, 8)))
    view: View = shard.view
    before = shard.search(unit(2, 8), 4)

    for vectors in (unit(2, 9), unit(3, 8)):
        fields = columns([row(key) for key in range(2)])
        with pytest.raises(ValueError, match="could not broadcast"):
            shard.apply(np.arange(2, dtype=np.uint64), vectors, fields, np.array([3], np.uint64))

    assert shard.view is view
    assert shard.search(unit(2, 8), 4) == before


def test_row_spreads_colours_evenly():
    assert [row(key)["attributes"]["colour"] for key in range(4)] == list(COLOURS)


@pytest.fixture(scope="module")
def torch_utils_hits(tmp_path_factory) -> dict[str, list[list[int]]]:
    """Keys that searches return, by kind, where `faiss.contrib.torch_utils` is loaded, as pytorch-metric-learning does.

    In another process, since it cannot be undone.
    """
    script = """
import json, sys
from pathlib import Path
import faiss.contrib.torch_utils
import numpy as np, pyarrow as pa
from galleria.index.base import Vectors, open_build, write_build
from galleria.index.columns import filter_columns
from galleria.index.filters import read_filter
from galleria.index.kinds import Plan
from galleria.index.shard import Shard
vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
names = {name: [str(number) for number in range(600)] for name in ("id", "title", "product_id", "source")}
columns = filter_columns(pa.table({**names, "category": [None] * 600, "attributes": [None] * 600}))
keys = np.arange(600, dtype=np.uint64)
hits = {}
for kind in ("Flat", "HNSW32", "IVF,Flat"):
    folder = Path(sys.argv[1], kind)
    write_build(folder, [Vectors(keys, keys, vectors, columns)], Plan(kind=kind), "b", 1)
    shard = Shard(open_build(folder, "b").bases[0])
    filters = (None, read_filter({"id": {"$in": ["7", "8"]}}))
    hits[kind] = [[hit.key for hit in shard.search(vectors[7:8], 1, allowed)[0]] for allowed in filters]
print(json.dumps(hits))
"""
    arguments = [sys.executable, "-c", script, str(tmp_path_factory.mktemp("torch"))]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF,Flat"])
def test_search_works_with_faiss_torch_utils(torch_utils_hits, kind):
    assert torch_utils_hits[kind] == [[7], [7]]


def test_filtered_scan_of_graph_is_exact(bases, vectors):
    oracle = Oracle.of(bases["HNSW32"], vectors)
    for conditions, meets in FILTERS[1:]:
        assert [oracle.check(query, 10, conditions, meets) for query in clustered(20, 16, 3)] == [1] * 20
