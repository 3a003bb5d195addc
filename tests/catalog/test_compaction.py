"""Compaction writes little, keeps the number of files and of dead rows bounded, and never changes a result."""

from pathlib import Path

import numpy as np
import pytest

from galleria.catalog.compaction import (
    MAX_DEAD_SHARE,
    MAX_LARGE_FILES,
    MIN_DEAD_ROWS,
    SMALL_FILE_ROWS,
    FileRows,
    files_to_rewrite,
    is_due,
)
from galleria.catalog.items import deletions
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from tests.catalog.tables import HASH, create_table, index_of, rows, titles, unit
from tests.soak import SOAK

MAX_FILES = 100
MAX_TIMES_WRITTEN = 7.4


def data_bytes(path: Path) -> dict[str, int]:
    """Return the sizes of all files with rows or marks of dead ones."""
    return {file.name: file.stat().st_size for part in ("data", "_deletions") for file in (path / part).glob("*")}


def updated(table: ProductTable, count: int, of: int, seed: int = 0) -> ProductTable:
    """Update random items of `of`, one a commit."""
    for number in np.random.default_rng(seed).integers(0, of, count).tolist():
        table = table.append(rows(f"{number}", title="new"))
    return table


def test_single_updates_leave_large_file(tmp_path):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(SMALL_FILE_ROWS + 50))))
    large = data_bytes(tmp_path / "t")
    table = updated(table, 40, SMALL_FILE_ROWS)
    before = data_bytes(tmp_path / "t")

    compacted = table.compact()

    written = {name: size for name, size in data_bytes(tmp_path / "t").items() if name not in before}
    assert sum(written.values()) < sum(before.values()) - sum(large.values())
    assert large.keys() < data_bytes(tmp_path / "t").keys()
    assert len(compacted.fragments) == 2
    assert titles(compacted) == titles(table)


def test_dead_rows_are_marked_then_removed(tmp_path):
    table = updated(create_table(tmp_path / "t", rows(*(f"{number}" for number in range(200)))), 10, 200)

    table = table.compact()
    assert [dead for _, dead in table.fragments] == [10, 0]
    assert table.scan(("id",)).num_rows == 200
    again = table.compact()
    assert again.version == table.version

    table = table.append(rows(*(f"{number}" for number in range(70)), title="second"))
    last = table.compact()
    assert {dead for _, dead in last.fragments} == {0}
    assert last.scan(("id",)).num_rows == 200
    assert titles(last) == titles(table)


def test_file_of_dead_rows_is_removed(tmp_path):
    names = [f"{number}" for number in range(200)]
    table = create_table(tmp_path / "t", rows(*names))
    assert (table.append(deletions(names, table.schema)).compact().fragments, titles(table.latest())) == ((), {})


def test_deletions_are_forgotten_when_marked(tmp_path):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(200))))
    table = table.append(deletions(["7", "none"], table.schema)).compact()

    assert (len(titles(table)), table.scan(("id",)).num_rows) == (199, 199)
    assert len(titles(table.append(rows("7")).compact())) == 200


def test_compaction_does_not_change_results(tmp_path):
    table = create_table(tmp_path / "t", rows(*(f"{number}" for number in range(400))))
    catalog = LiveCatalog(table.path, index_of(table, tmp_path / "index"), HASH)
    table = updated(table, 60, 400)
    catalog.refresh()
    queries = unit(50, seed=5)
    before = catalog.search(queries, 10)

    table.compact()

    assert catalog.refresh().version > table.version
    assert catalog.search(queries, 10) == before
    assert LiveCatalog(table.path, tmp_path / "index", HASH).search(queries, 10) == before


class Rows:
    """The rows of a table, by the rules of compaction, without a disk.

    Attributes:
        file_of: file of each item's current row, or -1.
        stored: rows of each file.
        marked: those in its deletion vector.
        written: rows that were ever written, apart from the first file.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.file_of = np.where(np.arange(capacity) < count, 0, -1)
        self.stored = {0: count}
        self.marked = {0: 0}
        self.written = 0

    def files(self) -> list[FileRows]:
        current = np.bincount(self.file_of + 1, minlength=max(self.stored, default=0) + 2)[1:]
        return [
            FileRows(number, stored, int(current[number]), int(stored - current[number] - self.marked[number]))
            for number, stored in self.stored.items()
        ]

    def put(self, items: np.ndarray) -> None:
        number = max(self.stored, default=0) + 1
        self.file_of[items] = number
        self.stored[number], self.marked[number] = len(items), 0
        self.written += len(items)

    def compact(self) -> None:
        files = self.files()
        old = files_to_rewrite(files)
        for file in files:
            self.marked[file.number] += file.unmarked
        self.stored = {number: count for number, count in self.stored.items() if number not in old}
        moved = np.flatnonzero(np.isin(self.file_of, old))
        if len(moved):
            self.put(moved)


@pytest.mark.parametrize(
    ("count", "commit", "hot"),
    [(50_000, 1, 1.0), (50_000, 1, 0.0001), (300, 1, 1.0), (50_000, 300, 1.0), (50_000, 40, 0.02), (0, 1, 1.0)],
)
def test_rows_are_written_a_bounded_number_of_times(count, commit, hot):
    """Random updates of a part of the items (`hot`), `commit` at a time; all are new where the table is empty."""
    chance = np.random.default_rng(0)
    commits = 20_000 // min(commit, 40) * SOAK
    table = Rows(count, max(count, commits))
    for number in range(commits):
        table.put(np.unique(chance.integers(0, max(1, int(count * hot)), commit)) if count else np.array([number]))
        if number % 20 == 0 and is_due(table.files(), MAX_FILES):
            table.compact()
            files = table.files()
            assert all(file.stored - file.current <= MAX_DEAD_SHARE * file.stored for file in files)
            assert len(files) <= MAX_LARGE_FILES + 25
    assert table.written <= MAX_TIMES_WRITTEN * commits * commit


def test_many_large_files_are_not_due():
    files = [FileRows(number, 2 * SMALL_FILE_ROWS, 2 * SMALL_FILE_ROWS, 0) for number in range(64)]

    assert not is_due(files, 10)
    assert files_to_rewrite(files) == []
    assert is_due([*files, FileRows(64, 1_200_000, 40_000, 1_160_000)], 10)


def test_compaction_is_due_for_many_superseded_rows(tmp_path):
    names = [f"{number}" for number in range(MIN_DEAD_ROWS + 1)]
    table = create_table(tmp_path / "t", rows(*names))
    assert not table.needs_compaction(table.key_map(), MAX_FILES)
    few = table.append(rows(*names[1:], title="second"))
    assert not few.needs_compaction(few.key_map(), MAX_FILES)
    table = few.append(rows(names[0], title="second"))
    assert table.needs_compaction(table.key_map(), MAX_FILES)
    table = table.compact()
    assert not table.needs_compaction(table.key_map(), MAX_FILES)
