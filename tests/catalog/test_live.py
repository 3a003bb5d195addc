"""A live catalogue returns what is committed, each result from one version."""

import logging
import threading
from datetime import timedelta

import numpy as np
import pytest

from galleria.catalog.items import deletions, item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.errors import BundleError, DataError, IndexDamagedError
from galleria.index.filters import read_filter
from tests.catalog.tables import HASH, at_angle, create_table, ids_of, index_of, rows, unit


def at_degrees(**degrees: float):
    """Return rows that put items at angles in a plane."""
    items = [{"id": name, "title": name, "text": f"at {angle}"} for name, angle in degrees.items()]
    return upserts(items, at_angle(*degrees.values()), HASH)


@pytest.fixture
def table(tmp_path):
    """Items a, b and c at 0, 10 and 20 degrees."""
    return create_table(tmp_path / "t", at_degrees(a=0, b=10, c=20))


@pytest.fixture
def catalog(tmp_path, table):
    catalog = LiveCatalog(tmp_path / "t", index_of(table, tmp_path / "index"), HASH)
    yield catalog
    catalog.close()


def search_ids(catalog, k=9, degrees=0.0, **options):
    return ids_of(
        catalog.search(at_angle(degrees), k, **options)[0],
        catalog,
        **{name: value for name, value in options.items() if name == "state"},
    )


def test_search_returns_indexed_items(catalog):
    answer = catalog.search(at_angle(0), 2)[0]

    assert [one.key for one in answer] == [item_key("a"), item_key("b")]
    assert [one.score for one in answer] == pytest.approx([1, np.cos(np.radians(10))], abs=1e-6)
    assert (catalog.state.version, catalog.state.unindexed) == (2, 0)


def test_refresh_adds_new_item(catalog, table):
    table.append(at_degrees(d=5))
    assert search_ids(catalog) == ["a", "b", "c"]

    assert catalog.refresh().version == 3

    assert search_ids(catalog) == ["a", "d", "b", "c"]
    assert catalog.state.unindexed == 1


def test_refresh_removes_deleted_item(catalog, table):
    table.append(at_degrees(d=5)).append(deletions(["a", "d", "never"], table.schema))

    catalog.refresh()

    assert search_ids(catalog) == ["b", "c"]
    assert (catalog.item("a"), catalog.fetch([item_key("a")])) == (None, [])


def test_refresh_moves_updated_item(catalog, table):
    table.append(at_degrees(a=90))

    catalog.refresh()

    assert search_ids(catalog) == ["b", "c", "a"]
    assert search_ids(catalog, degrees=90) == ["a", "c", "b"]


def test_refresh_restores_deleted_item_once(catalog, table):
    table.append(deletions(["a"], table.schema)).append(at_degrees(a=0)).append(at_degrees(a=0))

    catalog.refresh()

    assert search_ids(catalog) == ["a", "b", "c"]


def test_fetch_returns_fields_of_version(catalog, table):
    table.append(rows("a", title="new"))

    assert catalog.item("a")["title"] == "a"
    catalog.refresh()
    assert catalog.item("a")["title"] == "new"
    assert catalog.fetch([item_key("c"), item_key("nobody"), item_key("b")], ("title",)) == [
        {"id": "c", "title": "c"},
        {"id": "b", "title": "b"},
    ]


def test_search_uses_given_state(catalog, table):
    before = catalog.state
    table = table.append(at_degrees(d=1, a=90)).append(deletions(["b"], table.schema))
    middle = catalog.refresh()
    table.append(at_degrees(**{f"x{number}": 30 + number / 100 for number in range(3000)})).compact()
    catalog.refresh()

    assert search_ids(catalog, state=before) == ["a", "b", "c"]
    assert search_ids(catalog, state=middle) == ["d", "c", "a"]
    assert catalog.item("a", state=before)["title"] == "a"
    assert search_ids(catalog, k=2) == ["d", "c"]


def test_filter_covers_unindexed_items(catalog, table):
    table.append(upserts([{"id": "d", "attributes": {"price": 5}}], at_angle(5), HASH))
    catalog.refresh()

    assert search_ids(catalog, allowed=read_filter({"price": {"$gt": 4}})) == ["d"]
    assert search_ids(catalog, allowed=read_filter({"title": {"$in": ["a", "c"]}})) == ["a", "c"]
    assert search_ids(catalog, allowed=read_filter({"$not": {"title": "a"}})) == ["d", "b", "c"]


def test_open_catches_up_with_table(tmp_path, table):
    index = index_of(table, tmp_path / "index")
    table.append(at_degrees(a=90, d=5)).append(deletions(["b"], table.schema))

    catalog = LiveCatalog(tmp_path / "t", index, HASH)

    assert search_ids(catalog) == ["d", "c", "a"]
    assert catalog.state.unindexed == 2


def test_refresh_fills_empty_index(tmp_path):
    table = create_table(tmp_path / "t")
    catalog = LiveCatalog(tmp_path / "t", index_of(table, tmp_path / "index", shards=2), HASH)
    assert search_ids(catalog) == []

    table.append(at_degrees(a=0, b=10, c=20))
    catalog.refresh()

    assert search_ids(catalog) == ["a", "b", "c"]


def test_wait_for_returns_state_at_version(catalog, table):
    assert catalog.wait_for(2, 0).version == 2
    assert catalog.wait_for(3, 0.01) is None

    table.append(at_degrees(d=5))
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(catalog.wait_for(3, 60)))
    waiting.start()
    catalog.refresh()
    waiting.join()

    assert [state.version for state in answers] == [3]


def test_follow_refreshes_in_background(catalog, table):
    catalog.follow()

    table.append(at_degrees(d=5)).append(deletions(["a"], table.schema))

    assert catalog.wait_for(4, 60) is not None
    assert search_ids(catalog) == ["d", "b", "c"]


def test_refresh_opens_newer_build(tmp_path, catalog, table):
    table = table.append(at_degrees(d=5, a=90)).append(deletions(["b"], table.schema))
    before = catalog.refresh()
    index_of(table, tmp_path / "index", shards=2)
    table.append(at_degrees(e=6))

    after = catalog.refresh()

    assert (before.unindexed, after.unindexed) == (2, 1)
    assert search_ids(catalog) == ["d", "e", "c", "a"]
    assert search_ids(catalog, state=before) == ["d", "c", "a"]


def test_refresh_ignores_damaged_build(tmp_path, catalog, table, caplog):
    index_of(table.append(at_degrees(d=5)), tmp_path / "index")
    newest = max((tmp_path / "index" / "builds").iterdir())
    (newest / "shard-0.faiss").write_bytes(b"spoilt")

    with caplog.at_level(logging.ERROR):
        catalog.refresh()
        catalog.refresh()

    assert search_ids(catalog) == ["a", "d", "b", "c"]
    assert catalog.state.unindexed == 1
    assert caplog.text.count("the previous one stays in use") == 1


def test_refresh_retries_build_after_a_while(tmp_path, table, caplog):
    """Its files could not be read for a moment."""
    index = index_of(table, tmp_path / "index")
    catalog = LiveCatalog(tmp_path / "t", index, HASH, retry_build_after_s=0)
    index_of(table.append(at_degrees(d=5)), index)
    newest = max((index / "builds").iterdir(), key=lambda build: build.stat().st_mtime_ns)
    hidden = (newest / "shard-0.faiss").rename(tmp_path / "hidden")
    assert catalog.refresh().unindexed == 1
    hidden.rename(newest / "shard-0.faiss")
    assert catalog.refresh().unindexed == 0
    assert catalog.state.build.folder == newest
    assert caplog.text.count("the previous one stays in use") == 1


def test_refresh_ignores_build_of_other_bundle(tmp_path, catalog, table, caplog):
    before = catalog.state.build.folder
    index_of(table.append(at_degrees(d=5)), tmp_path / "index", bundle_hash="c" * 64)
    catalog.refresh()

    assert catalog.state.build.folder == before
    assert search_ids(catalog) == ["a", "d", "b", "c"]
    assert "was built with bundle cccccccccccc, but the bundle in use is bbbbbbbbbbbb" in caplog.text


def test_refresh_ignores_damaged_pointer(tmp_path, catalog):
    (tmp_path / "index" / "current.json").write_text("spoilt")
    catalog.refresh()
    assert search_ids(catalog) == ["a", "b", "c"]

    index_of(ProductTable(tmp_path / "t"), tmp_path / "index")
    before = catalog.state.build.folder
    assert catalog.refresh().build.folder != before


def test_refresh_follows_restore(tmp_path, catalog, table):
    table.append(at_degrees(d=5)).append(deletions(["a"], table.schema))
    catalog.refresh()
    assert search_ids(catalog) == ["d", "b", "c"]

    ProductTable(tmp_path / "t", 2).restore().append(at_degrees(e=15))
    catalog.refresh()

    assert search_ids(catalog) == ["a", "b", "e", "c"]


def test_refresh_follows_compaction(catalog, table):
    table = table.append(at_degrees(a=90)).append(at_degrees(d=50)).append(deletions(["b"], table.schema))
    catalog.refresh()
    before = search_ids(catalog)

    table.compact(timedelta(0)).append(at_degrees(e=60))
    catalog.refresh()

    assert before == ["c", "d", "a"]
    assert search_ids(catalog) == ["c", "d", "e", "a"]
    assert [catalog.item(name)["title"] for name in "acde"] == ["a", "c", "d", "e"]


def test_results_survive_reopen_compact_restore(tmp_path):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(300))))
    index = index_of(table, tmp_path / "index", shards=2)
    table = table.append(rows(*(f"{number}" for number in range(250, 350)), seed=1))
    table = table.append(deletions([f"{number}" for number in range(0, 350, 7)], table.schema))
    queries = unit(50, seed=2)

    def answers():
        return LiveCatalog(tmp_path / "t", index, HASH).search(queries, 10)

    expected = answers()
    assert answers() == expected
    live = LiveCatalog(tmp_path / "t", index, HASH)
    table.compact(timedelta(0))
    live.refresh()
    assert live.search(queries, 10) == answers() == expected

    table = ProductTable(tmp_path / "t")
    table.append(rows("1", "2", "400", seed=3))
    live.refresh()
    assert live.search(queries, 10) != expected
    table.restore()
    live.refresh()
    assert live.search(queries, 10) == answers() == expected


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_search_merges_shards(tmp_path, shards):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(100))))
    one = LiveCatalog(tmp_path / "t", index_of(table, tmp_path / "one"), HASH)
    many = LiveCatalog(tmp_path / "t", index_of(table, tmp_path / "many", shards), HASH)
    table.append(rows("1", "2", "new", seed=1)).append(deletions(["3", "4"], table.schema))
    one.refresh()
    many.refresh()

    for k in (1, 10, 200):
        for expected, hits in zip(one.search(unit(9, seed=2), k), many.search(unit(9, seed=2), k), strict=True):
            assert [hit.key for hit in hits] == [hit.key for hit in expected]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)


def test_shards_hold_every_item_once(tmp_path):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(50))))
    index = index_of(table, tmp_path / "index", shards=3)
    table.append(rows(*(f"{number}" for number in range(40, 60)), seed=1))

    parts = [LiveCatalog(tmp_path / "t", index, HASH, shards=[number]).search(unit(1), 99)[0] for number in range(3)]

    assert sorted(one.key for part in parts for one in part) == sorted(item_key(f"{number}") for number in range(60))


@pytest.mark.slow
def test_concurrent_searches_see_one_version(tmp_path):
    """Every commit moves both items: an answer that mixed two versions would show them at different angles."""
    table = create_table(tmp_path / "t", at_degrees(a=0, b=0))
    catalog = LiveCatalog(tmp_path / "t", index_of(table, tmp_path / "index", shards=2), HASH)
    catalog.follow()
    last = table.version + 60
    seen = set()

    def write():
        latest = table
        for degrees in range(1, 61):
            latest = latest.append(at_degrees(a=degrees, b=degrees))

    writing = threading.Thread(target=write)
    writing.start()
    while catalog.state.version < last:
        answer = catalog.search(at_angle(90), 9)[0]
        seen.add((len(answer), len({round(one.score, 5) for one in answer})))
    writing.join()
    catalog.close()

    assert seen == {(2, 1)}


def test_open_rejects_mismatched_parts(tmp_path, table):
    index = index_of(table, tmp_path / "index")
    other = create_table(tmp_path / "other", dimension=4)

    with pytest.raises(DataError, match="no product table"):
        LiveCatalog(tmp_path / "none", index, HASH)
    with pytest.raises(IndexDamagedError, match="no index at"):
        LiveCatalog(tmp_path / "t", tmp_path / "none", HASH)
    with pytest.raises(BundleError, match="made with bundle bbbbbbbbbbbb, but the bundle in use is cccccccccccc"):
        LiveCatalog(tmp_path / "t", index, "c" * 64)
    foreign = index_of(table, tmp_path / "foreign", bundle_hash="c" * 64)
    with pytest.raises(IndexDamagedError, match="built with bundle cccccccccccc, but the bundle in use is bbbb"):
        LiveCatalog(tmp_path / "t", foreign, HASH)
    with pytest.raises(IndexDamagedError, match="vectors of 3 values"):
        LiveCatalog(other.path, index, HASH)
