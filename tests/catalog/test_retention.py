"""Old versions are deleted by age and by number; snapshots stay, and so do the files that readers may have open."""

from datetime import datetime, timedelta

import pytest

from galleria.catalog.live import LiveCatalog
from galleria.catalog.retention import MAX_VERSIONS, READER_TIME, outdated_versions
from galleria.catalog.table import ProductTable
from tests.catalog.tables import HASH, create_table, index_of, rows, titles

NOW = datetime(2026, 1, 31)
WEEK = timedelta(days=7)
SECOND = timedelta(seconds=1)


def versions(*files: int, every: timedelta = SECOND, marked: int = 0) -> list[dict]:
    """Return versions with so many files, the newest of now."""
    return [
        {
            "version": number + 1,
            "timestamp": NOW - every * (len(files) - 1 - number),
            "metadata": {
                "total_data_files": f"{count}",
                "total_data_file_rows": f"{10 * count}",
                "total_deletion_file_rows": f"{marked}",
            },
        }
        for number, count in enumerate(files)
    ]


def test_few_young_versions_are_kept():
    assert outdated_versions(versions(*range(MAX_VERSIONS)), WEEK, NOW) == []
    assert outdated_versions(versions(1), timedelta(0), NOW) == []


def test_versions_are_deleted_by_age():
    every_day = versions(*range(1, 13), every=timedelta(days=1))

    assert outdated_versions(every_day, WEEK, NOW) == [1, 2, 3]
    assert outdated_versions(every_day, timedelta(0), NOW + SECOND) == list(range(1, 12))


def test_version_in_use_until_recently_is_kept():
    """Its age counts from when the next one was written."""
    before, newest = versions(1, 2, every=timedelta(days=30))

    assert outdated_versions([before, newest], WEEK, NOW) == []


def test_versions_are_deleted_by_number():
    hourly = versions(*[5] * (MAX_VERSIONS + 200), every=timedelta(minutes=1))
    young = READER_TIME // timedelta(minutes=1)

    assert young < MAX_VERSIONS
    assert outdated_versions(hourly, WEEK, NOW) == list(range(1, 201))


def test_versions_before_compactions_are_kept():
    cycle = list(range(1, 101))
    many = versions(*cycle * 12)

    outdated = outdated_versions(many, WEEK, NOW)

    assert len(many) - len(outdated) == MAX_VERSIONS + 2
    assert {100, 200}.isdisjoint(outdated)
    later = outdated_versions(many, WEEK, NOW + 2 * READER_TIME)
    assert later == list(range(1, 201))


def test_marking_rows_counts_as_removal():
    marking = versions(*[5] * MAX_VERSIONS, marked=3)
    before = versions(5, 6, every=SECOND)
    shifted = [version | {"version": version["version"] + 2} for version in marking]

    assert outdated_versions([*before, *shifted], WEEK, NOW) == [1]


@pytest.fixture
def table(tmp_path) -> ProductTable:
    """A table with versions 2 … 6 by appends, a compaction, and two more versions."""
    table = create_table(tmp_path / "t", *(rows(name) for name in "abcde"))
    return table.compact().append(rows("f")).append(rows("a", title="new"))


def delete_all_but(table: ProductTable, count: int) -> ProductTable:
    """Delete versions as a compaction does where `count` are kept; of the others those within runs of appends."""
    listed = table._dataset.versions()
    padding = [listed[-1]] * (MAX_VERSIONS - count)
    outdated = outdated_versions([*listed, *padding], WEEK, datetime.now())
    table._dataset.cleanup_old_versions(versions=outdated, error_if_tagged_old_versions=False)
    return table


def test_open_version_reads_on_when_deleted(tmp_path, table):
    table.at(3).snapshot("three")
    readers = {version: table.at(version) for version in range(2, table.version)}
    before = {version: titles(reader) for version, reader in readers.items()}

    delete_all_but(table, 1)

    assert [version for version, _ in table.versions()] == [3, 6, table.version]
    assert {version: titles(reader) for version, reader in readers.items()} == before


def test_follower_skips_deleted_versions(tmp_path):
    first = create_table(tmp_path / "t", rows("a"))
    catalog = LiveCatalog(first.path, index_of(first, tmp_path / "index"), HASH)
    first.snapshot("first")
    table = first.append(rows("b")).append(rows("c"))
    table._dataset.cleanup_old_versions(versions=[1, 3])
    catalog.follow()

    assert catalog.wait_for(table.version, 10).count == 3
    catalog.close()


def test_newest_version_is_found_without_listing(tmp_path):
    table = create_table(tmp_path / "t", rows("a"))

    assert table.is_newest()
    later = table.append(rows("b"))
    assert (table.is_newest(), later.is_newest()) == (False, True)
    later.compact(timedelta(0))
    assert not table.is_newest()


def test_newest_looks_at_next_version_alone(tmp_path):
    """So that its cost does not grow with their number: it does not see one after a gap."""
    first = create_table(tmp_path / "t", rows("a"))
    first.snapshot("first")
    newest = first.append(rows("b")).append(rows("c"))
    newest._dataset.cleanup_old_versions(versions=[first.version + 1])

    assert first.newest == newest.version
    assert first.is_newest()
