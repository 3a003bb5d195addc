"""A table that is deleted and created anew at its path is another table, whatever its versions and fragments are."""

import logging
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from galleria.catalog.items import item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter
from galleria.index.manifest import current_manifest
from galleria.pipelines.maintenance import Maintenance
from tests.catalog.tables import HASH, at_angle, create_table, ids_of, index_of, titles

QUERY = at_angle(0)
IDS = {item_key(name): name for name in ("0", "1", "2", "3", "lost", "kept")}


def write_table(path: Path, commits: int, *degrees: float) -> ProductTable:
    """Create a table with items "0", "1", …, whose content is equal for all vectors, in so many commits."""
    shutil.rmtree(path, ignore_errors=True)
    table = create_table(path)
    for _ in range(commits):
        items = [{"id": f"{number}", "text": f"{number}"} for number in range(len(degrees))]
        table = table.append(upserts(items, at_angle(*degrees), HASH))
    return table


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "table", 2, 0, 40, 80)


@pytest.fixture
def catalog(table, tmp_path):
    opened = LiveCatalog(table.path, index_of(table, tmp_path / "index"), HASH)
    yield opened
    opened.close()


def ranked(catalog: LiveCatalog) -> tuple[list[str], list[float]]:
    """Return the ids and scores of a search for all items, without reading the table, whose files may be deleted."""
    [hits] = catalog.search(QUERY, 10)
    return [IDS[hit.key] for hit in hits], [hit.score for hit in hits]


def wait_until_ranked(catalog: LiveCatalog, *ids: str) -> None:
    """Wait until a search for all items ranks these."""
    with catalog._changed:
        assert catalog._changed.wait_for(lambda: ranked(catalog)[0] == [*ids], 30)


def cosines(*degrees: float) -> object:
    return pytest.approx(np.cos(np.radians(degrees)), abs=1e-6)


@pytest.mark.parametrize("commits", [1, 2, 3])
@pytest.mark.parametrize("degrees", [(80, 40, 0), (80, 0), (80, 40, 20, 0)])
def test_follower_sees_remade_table(catalog, table, commits, degrees):
    assert ranked(catalog) == (["0", "1", "2"], cosines(0, 40, 80))
    write_table(Path(table.path), commits, *degrees)
    catalog.refresh()
    assert ranked(catalog) == ([f"{number}" for number in np.argsort(degrees)], cosines(*sorted(degrees)))
    assert catalog.state.count == len(degrees)
    [hits] = catalog.search(QUERY, 10)
    assert ids_of(hits, catalog) == ranked(catalog)[0]


def test_follower_polls_for_remade_table(catalog, table):
    catalog.follow()
    write_table(Path(table.path), 2, 80, 40, 0)
    wait_until_ranked(catalog, "2", "1", "0")
    write_table(Path(table.path), 2, 80, 0, 40)
    wait_until_ranked(catalog, "1", "2", "0")


def test_index_of_other_table_is_not_used(catalog, table, tmp_path, caplog):
    remade = write_table(Path(table.path), 2, 80, 40, 0)
    with caplog.at_level(logging.WARNING):
        opened = LiveCatalog(table.path, tmp_path / "index", HASH)
    assert ranked(opened) == (["2", "1", "0"], cosines(0, 40, 80))
    assert opened.state.unindexed == 3
    assert "was built for another table" in caplog.text

    index_of(remade, tmp_path / "index")
    assert opened.refresh().unindexed == 0
    assert ranked(opened) == (["2", "1", "0"], cosines(0, 40, 80))


def test_maintenance_rebuilds_index_of_other_table(table, tmp_path):
    index_of(table, tmp_path / "index")
    maintenance = Maintenance(tmp_path / "index", timedelta(days=1))
    assert not maintenance.run(table)
    remade = write_table(Path(table.path), 2, 80, 40, 0)
    assert maintenance.run(table)
    assert current_manifest(tmp_path / "index").table_id == remade.table_id != table.table_id
    assert not maintenance.run(table)


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_writer_writes_to_remade_table(table, commits):
    writer = CatalogWriter(table.path)
    write_table(Path(table.path), commits, 80, 40)
    item = {"id": "2", "text": "2"}
    assert writer.put([item], at_angle(10)).result().statuses == ("created",)
    writer.close()
    assert titles(ProductTable(table.path)).keys() == {"0", "1", "2"}
    _, vectors = ProductTable(table.path).vectors()
    assert np.sort(vectors[:, 0]) == pytest.approx(np.sort(at_angle(80, 40, 10)[:, 0]))


def test_follower_sees_restored_backup(table, tmp_path):
    """A backup has the identity of its table, and may reach the same version by other commits."""
    backup = shutil.copytree(table.path, tmp_path / "backup")
    items = [{"id": name, "text": name} for name in ("lost", "kept")]
    index = index_of(table, tmp_path / "index")
    table.append(upserts(items[:1], at_angle(10), HASH))
    catalog = LiveCatalog(table.path, index, HASH)
    assert ranked(catalog)[0] == ["0", "lost", "1", "2"]
    shutil.rmtree(table.path)
    shutil.copytree(backup, table.path)
    ProductTable(table.path).append(upserts(items[1:], at_angle(20), HASH))
    catalog.refresh()
    assert ranked(catalog) == (["0", "kept", "1", "2"], cosines(0, 20, 40, 80))


def test_identity_survives_writes(table, tmp_path):
    identity = table.table_id
    assert len(identity) == 32
    later = table.append(upserts([{"id": "a"}], at_angle(1), HASH)).compact()
    assert later.table_id == ProductTable(table.path, 2).restore().table_id == identity
    assert write_table(tmp_path / "other", 1, 0).table_id != identity
