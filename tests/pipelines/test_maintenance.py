"""A table that is written to stays compact, and its index up to date."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from galleria.catalog.items import table_schema
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter
from galleria.errors import DataError
from galleria.index.base import open_build
from galleria.index.kinds import Plan
from galleria.pipelines.build_index import build_index
from galleria.pipelines.maintenance import Maintenance, unindexed
from tests.catalog.tables import HASH, titles, unit

ITEMS = [{"id": f"item {index}", "title": f"{index}"} for index in range(30)]
VECTORS = unit(30, 8)


@pytest.fixture
def table(tmp_path: Path) -> ProductTable:
    """Ten items and their index."""
    ProductTable.create(tmp_path / "table", table_schema(8, HASH))
    writer = CatalogWriter(tmp_path / "table")
    writer.put(ITEMS[:10], VECTORS[:10]).result()
    writer.close()
    build_index(ProductTable(tmp_path / "table"), tmp_path / "index")
    return ProductTable(tmp_path / "table")


def written(table: ProductTable, first: int, last: int) -> ProductTable:
    writer = CatalogWriter(table.path)
    for index in range(first, last):
        writer.put([ITEMS[index]], VECTORS[index : index + 1]).result()
    writer.close()
    return table.latest()


def test_few_writes_need_no_maintenance(table: ProductTable, tmp_path: Path) -> None:
    table = written(table, 10, 13)
    assert not Maintenance(tmp_path / "index", timedelta(days=1)).run(table)
    assert table.newest == table.version
    assert unindexed(table, open_build(tmp_path / "index", HASH)) == 3


def test_compaction_merges_files_and_keeps_items(table: ProductTable, tmp_path: Path) -> None:
    table = written(table, 10, 20)
    assert len(table.fragments) == 11
    maintenance = Maintenance(tmp_path / "index", timedelta(0), max_files=5)
    assert maintenance.run(table)
    assert len(table.latest().fragments) == 1
    assert not maintenance.run(table), "a writer has the version before the compaction until it writes again"
    assert titles(table.latest()) == {item["id"]: item["title"] for item in ITEMS[:20]}


def test_stale_index_is_rebuilt_with_its_plan(table: ProductTable, tmp_path: Path) -> None:
    build_index(table, tmp_path / "index", Plan(kind="HNSW32"), shards=2)
    table = written(table, 10, 30)
    maintenance = Maintenance(tmp_path / "index", timedelta(1), max_unindexed=5)
    assert maintenance.run(table)
    build = open_build(tmp_path / "index", HASH)
    assert (build.manifest.count, build.manifest.plan.kind, len(build.bases)) == (30, "HNSW32", 2)
    assert unindexed(table, build) == 0
    assert not maintenance.run(table), "nothing has changed since"


def test_open_catalogue_returns_equal_hits(table: ProductTable, tmp_path: Path) -> None:
    catalog = LiveCatalog(table.path, tmp_path / "index", HASH)
    table = written(table, 10, 30)
    catalog.refresh()
    before = catalog.search(VECTORS, 5)
    assert catalog.state.unindexed == 20
    Maintenance(tmp_path / "index", timedelta(0), max_files=5, max_unindexed=5).run(table)
    catalog.refresh()
    assert catalog.state.unindexed == 0
    for old, new in zip(before, catalog.search(VECTORS, 5), strict=True):
        assert [found.key for found in old] == [found.key for found in new]
        np.testing.assert_allclose([found.score for found in old], [found.score for found in new], atol=1e-6)


def test_shards_cover_all_items(table: ProductTable, tmp_path: Path) -> None:
    manifest = build_index(table, tmp_path / "three", shards=3)
    assert sum(shard.count for shard in manifest.shards) == manifest.count == 10
    whole, parts = (LiveCatalog(table.path, tmp_path / name, HASH).search(VECTORS, 4) for name in ("index", "three"))
    assert [[found.key for found in row] for row in whole] == [[found.key for found in row] for row in parts]
    empty = ProductTable.create(tmp_path / "empty", table_schema(8, HASH))
    with pytest.raises(DataError, match="has no item to index"):
        build_index(empty, tmp_path / "none")
