"""The product table returns what was written, at every version, with any number of writers."""

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from galleria.catalog.compaction import SMALL_FILE_ROWS
from galleria.catalog.items import BUNDLE_HASH, FIELDS, FORMAT_KEY, deletions, item_key, table_schema, upserts
from galleria.catalog.table import ProductTable
from galleria.durable import sync
from galleria.errors import CatalogFullError, ConfigurationError, DataError, SchemaError, StorageError
from tests.catalog.tables import HASH, at_angle, create_table, rows, titles, unit

IDS = ("b", "a", "ü", "鞋", "👟", "a/../b", "with space", "'quoted'", "x" * 512)
NOW = timedelta(0)


class Interrupted:
    """A disk on which something happens before the n-th thing reaches it."""

    def __init__(self, at, event):
        self.left = at
        self.event = event

    def __call__(self, path):
        self.left -= 1
        if self.left == 0:
            self.event()
        sync(path)


class PowerLossError(Exception):
    """Interrupts an operation."""


def stop():
    raise PowerLossError


def entries(table: ProductTable) -> dict[str, str]:
    """Return titles by id as `titles` does, but from the log: the last row of every id."""
    log = table.scan(("id", "title", "deleted", "settled")).to_pylist()
    last = {row["id"]: row for row in sorted(log, key=lambda row: not row["settled"])}
    return {name: row["title"] for name, row in last.items() if not row["deleted"]}


def test_create_makes_empty_table(tmp_path):
    table = create_table(tmp_path / "t")

    assert (table.version, table.newest, table.bundle_hash, table.dimension) == (1, 1, HASH, 3)
    assert (titles(table), table.key_map().count, table.fragments) == ({}, 0, ())
    assert table.vectors()[1].shape == (0, 3)
    assert table.scan(("id",)).num_rows == 0


def test_vectors_returns_ids_in_any_script(tmp_path):
    table = create_table(tmp_path / "t", rows(*IDS))

    ids, vectors = table.vectors()

    order = sorted(range(len(IDS)), key=lambda position: item_key(IDS[position]))
    assert ids.tolist() == [IDS[position] for position in order]
    assert vectors.tolist() == unit(len(IDS))[order].tolist()
    assert titles(table) == {name: name for name in IDS}
    assert [table.item(name)["id"] for name in IDS] == list(IDS)


def test_item_returns_requested_columns(tmp_path):
    table = create_table(tmp_path / "t", rows("a", image=b"picture", category=["x", "y"], attributes={"price": 2}))

    assert table.item("a") == {
        "id": "a",
        "title": "a",
        "text": None,
        "category": ["x", "y"],
        "product_id": None,
        "source": None,
        "attributes": '{"price": 2}',
    }
    assert tuple(table.item("a")) == ("id", *FIELDS)
    assert table.item("a", ("image",)) == {"id": "a", "image": b"picture"}
    assert table.item("A") is None


def test_last_row_of_id_is_current(tmp_path):
    table = create_table(tmp_path / "t", rows("a", "b", title="first"), rows("a", title="second"))

    assert titles(table) == {"a": "second", "b": "first"}


def test_append_deletes_and_restores_item(tmp_path):
    first = create_table(tmp_path / "t", rows("a", "b"))
    second = first.append(deletions(["a", "never there"], first.schema))
    third = second.append(rows("a", title="again"))

    assert [titles(table) for table in (first, second, third)] == [
        {"a": "a", "b": "b"},
        {"b": "b"},
        {"a": "again", "b": "b"},
    ]


def test_append_increments_version(tmp_path):
    first = create_table(tmp_path / "t", rows("a"))
    second = first.append(rows("b"))

    assert (first.version, second.version) == (2, 3)
    assert (first.newest, second.newest, first.latest().version) == (3, 3, 3)
    assert list(titles(first)) == ["a"]


def test_rows_are_returned_in_request_order(tmp_path):
    table = create_table(tmp_path / "t", rows("a", "b"), rows("c"))
    address = {row["id"]: row["_rowaddr"] for row in table.scan(("id",)).to_pylist()}

    read = table.rows([address["c"], address["a"], address["c"]])

    assert [row["id"] for row in read] == ["c", "a", "c"]
    assert table.take([address["b"]], ("title",)).to_pylist() == [{"title": "b"}]


def test_rows_of_no_addresses_are_empty(tmp_path):
    table = create_table(tmp_path / "t", rows("a"))

    assert (table.rows([]), table.take([], ("id", "embedding")).column_names) == ([], ["id", "embedding"])


def test_items_are_batched_in_key_order(tmp_path):
    table = create_table(tmp_path / "t", rows(*"abcde"), rows("c", title="new"))

    batches = list(table.items(("id", "key", "title"), rows=2))

    assert [len(batch) for batch in batches] == [2, 2, 1]
    keys = [key for batch in batches for key in batch["key"].to_pylist()]
    assert keys == sorted(item_key(name) for name in "abcde")


def test_append_reader_is_one_commit(tmp_path):
    table = create_table(tmp_path / "t")
    batches = [rows("a"), rows("b"), rows("c")]

    table = table.append(pa.RecordBatchReader.from_batches(table.schema, batches))

    assert (table.version, sorted(titles(table))) == (2, ["a", "b", "c"])


def test_added_returns_only_new_rows(tmp_path):
    first = create_table(tmp_path / "t", rows("a"))
    third = first.append(rows("b")).append(rows("a", title="new"))

    added = third.added(first, ("key", "id", "title"))

    assert [(row["id"], row["title"]) for row in added.to_pylist()] == [("b", "b"), ("a", "new")]
    assert third.added(third).num_rows == 0
    assert first.added(third) is None


def test_key_map_continues_from_earlier_version(tmp_path):
    first = create_table(tmp_path / "t", rows("a", "b"))
    held_first = first.key_map()
    third = first.append(rows("c")).append(deletions(["a"], first.schema))

    carried, read = third.key_map(since=(first, held_first)), third.key_map()

    assert [column.tolist() for column in carried.arrays()] == [column.tolist() for column in read.arrays()]
    compacted = third.compact()
    assert compacted.added(third) is None
    assert list(compacted.key_map(since=(third, read))) == list(read)


def test_append_rejects_other_schema(tmp_path):
    table = create_table(tmp_path / "t")

    with pytest.raises(SchemaError, match="do not fit"):
        table.append(upserts([{"id": "a"}], unit(1, dimension=4), HASH))
    with pytest.raises(SchemaError, match="another bundle than bbbbbbbbbbbb"):
        table.append(upserts([{"id": "a"}], unit(1), "c" * 64))
    with pytest.raises(SchemaError, match="do not fit"):
        table.append(pa.table({"id": ["a"]}))
    assert table.newest == 1


@pytest.mark.parametrize("content", ["nothing", "empty folder", "file", "folder of something else"])
def test_open_names_command_for_missing_table(tmp_path, content):
    path = tmp_path / "t"
    if content == "file":
        path.write_text("x")
    elif content != "nothing":
        path.mkdir()
    if content == "folder of something else":
        (path / "x").write_text("x")

    for opened in (ProductTable, ProductTable.recover):
        with pytest.raises(DataError, match=r"no product table at .*: make one with 'galleria embed'"):
            opened(path)


def test_create_rejects_existing_table(tmp_path):
    create_table(tmp_path / "t")

    with pytest.raises(ConfigurationError, match="already"):
        create_table(tmp_path / "t")


def test_create_makes_parent_folders(tmp_path):
    (tmp_path / "t").mkdir()

    assert create_table(tmp_path / "t", rows("a")).version == create_table(tmp_path / "x" / "y", rows("a")).version == 2


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"2", r"has format 2, this galleria reads 1: upgrade it"),
        (b"0", "is not a product table"),
        (b"", "is not a product table"),
        (b"one", "is not a product table"),
        (b"-1", "is not a product table"),
    ],
)
def test_open_rejects_other_format(tmp_path, written, message):
    schema = table_schema(3, HASH).with_metadata({BUNDLE_HASH: HASH.encode(), FORMAT_KEY: written})
    lance.write_dataset(schema.empty_table(), str(tmp_path / "t"))

    with pytest.raises(SchemaError, match=message):
        ProductTable(tmp_path / "t")


def test_open_rejects_foreign_dataset(tmp_path):
    lance.write_dataset(pa.table({"id": ["a"]}), str(tmp_path / "t"))

    with pytest.raises(SchemaError, match="is not a product table"):
        ProductTable(tmp_path / "t")


def test_open_by_version_or_snapshot(tmp_path):
    table = create_table(tmp_path / "t", rows("a"))
    table.snapshot("before")
    table.append(rows("b"))

    assert (
        list(titles(ProductTable(tmp_path / "t", 2))) == list(titles(ProductTable(tmp_path / "t", "before"))) == ["a"]
    )
    assert ProductTable(tmp_path / "t").snapshots() == {"before": 2}
    assert [version for version, _ in table.latest().versions()] == [1, 2, 3]


@pytest.mark.parametrize("version", [99, "never"])
def test_open_names_missing_version(tmp_path, version):
    create_table(tmp_path / "t")

    with pytest.raises(DataError, match=f"no version or snapshot {version!r}"):
        ProductTable(tmp_path / "t", version)


@pytest.mark.parametrize("name", ["taken", "", "a b", "../a"])
def test_snapshot_rejects_invalid_name(tmp_path, name):
    table = create_table(tmp_path / "t")
    table.snapshot("taken")

    with pytest.raises(ConfigurationError, match="cannot be made"):
        table.snapshot(name)


def test_restore_commits_old_version(tmp_path):
    second = create_table(tmp_path / "t", rows("a", title="first"))
    third = second.append(rows("a", "b", title="second"))

    restored = ProductTable(tmp_path / "t", 2).restore()

    assert (restored.version, titles(restored)) == (4, {"a": "first"})
    assert titles(third) == titles(ProductTable(tmp_path / "t", 3)) == {"a": "second", "b": "second"}
    assert titles(restored.append(rows("c"))) == {"a": "first", "c": "c"}


def test_added_is_none_after_restore(tmp_path):
    second = create_table(tmp_path / "t", rows("a"))
    third = second.append(rows("b"))

    fifth = second.restore().append(rows("c"))

    assert fifth.added(third) is None
    assert list(fifth.key_map(since=(third, third.key_map()))) == list(fifth.key_map())


def test_compact_removes_superseded_rows(tmp_path):
    table = create_table(tmp_path / "t")
    for version in range(5):
        table = table.append(rows("a", "b", f"{version}", title=f"{version}"))
    table = table.append(deletions(["b", "0"], table.schema))
    before = titles(table)

    compacted = table.compact()

    assert before == titles(compacted) == {"a": "4", "1": "1", "2": "2", "3": "3", "4": "4"}
    assert compacted.scan(("id",)).num_rows == len(before)
    assert len(compacted.fragments) == 1
    assert titles(table) == before


def test_compact_is_idempotent(tmp_path):
    compacted = create_table(tmp_path / "t", rows("a"), rows("a")).compact()

    assert compacted.compact().version == compacted.version


def test_compact_removes_deletions(tmp_path):
    table = create_table(tmp_path / "t", rows("a"))
    table = table.append(deletions(["a"], table.schema))

    compacted = table.compact(NOW)

    assert (titles(compacted), compacted.scan(("id",)).num_rows) == ({}, 0)
    assert titles(compacted.append(rows("b"))) == {"b": "b"}


def test_compact_keeps_snapshots(tmp_path):
    table = create_table(tmp_path / "t", rows("a"), rows("b"))
    ProductTable(tmp_path / "t", 2).snapshot("named")

    compacted = table.compact(NOW)

    assert [version for version, _ in compacted.versions()] == [2, compacted.version]
    assert list(titles(ProductTable(tmp_path / "t", "named"))) == ["a"]
    assert len(list((tmp_path / "t" / "data").iterdir())) == 2


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_compact_allows_concurrent_appends(tmp_path, at):
    create_table(tmp_path / "t", rows("a", "b", "c", title="first"), rows("a", title="second"))

    def write():
        latest = ProductTable(tmp_path / "t")
        latest.append(rows("b", title="meanwhile")).append(deletions(["c"], latest.schema))

    ProductTable(tmp_path / "t", to_disk=Interrupted(at, write)).compact()

    table = ProductTable(tmp_path / "t")
    assert titles(table) == entries(table) == {"a": "second", "b": "meanwhile"}
    assert titles(table.append(rows("c", title="again"))) == {"a": "second", "b": "meanwhile", "c": "again"}
    assert titles(table.compact()) == {"a": "second", "b": "meanwhile", "c": "again"}


@pytest.mark.parametrize("at", [1, 2])
def test_compact_tolerates_concurrent_compact(tmp_path, at, caplog):
    create_table(tmp_path / "t", rows("a", "b", title="first"), rows("a", title="second"), rows("c"))

    def compact():
        ProductTable(tmp_path / "t").compact()

    compacted = ProductTable(tmp_path / "t", to_disk=Interrupted(at, compact)).compact()

    assert titles(compacted) == {"a": "second", "b": "first", "c": "c"}
    assert compacted.scan(("id",)).num_rows == 3
    assert "compacted by another process meanwhile" in caplog.text


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_interrupted_compact_keeps_items(tmp_path, at):
    table = create_table(tmp_path / "t", rows("a", "b", "c"), rows("a", title="second"))
    table = table.append(deletions(["b"], table.schema)).append(rows("d"))

    with pytest.raises(PowerLossError):
        ProductTable(tmp_path / "t", to_disk=Interrupted(at, stop)).compact(NOW)

    left = ProductTable.recover(tmp_path / "t")
    assert titles(left) == entries(left) == {"a": "second", "c": "c", "d": "d"}
    assert titles(left.compact(NOW)) == {"a": "second", "c": "c", "d": "d"}


def test_stale_rewrite_conflicts(tmp_path):
    stale = create_table(tmp_path / "t", rows("a", "b", "c", title="first"), rows("a", title="second"))
    compacted = stale.compact()

    with pytest.raises(OSError, match="conflict"):
        stale._rewrite()

    assert titles(compacted.latest()) == {"a": "second", "b": "first", "c": "first"}


def test_compact_keeps_large_files(tmp_path):
    many = [f"{number}" for number in range(SMALL_FILE_ROWS)]
    table = create_table(tmp_path / "t", rows(*many), rows("x", title="first"), rows("x", title="second"), rows("y"))

    compacted = table.compact()

    assert [deleted for _, deleted in compacted.fragments] == [0, 0]
    assert compacted.fragments[0] == table.fragments[0]
    assert titles(compacted) == {name: name for name in many} | {"x": "second", "y": "y"}
    last = compacted.append(rows("7", "y", title="new")).compact()
    assert titles(last) == titles(compacted) | {"7": "new", "y": "new"}
    assert [deleted for _, deleted in last.fragments] == [1, 0]
    assert last.scan(("id",)).num_rows == SMALL_FILE_ROWS + 2


def test_concurrent_appends_are_ordered(tmp_path):
    create_table(tmp_path / "t")
    start = threading.Barrier(4)
    versions = {}

    def append(name):
        table = ProductTable(tmp_path / "t")
        start.wait()
        for count in range(10):
            table = table.append(rows("same", f"{name}{count}", title=f"{name}{count}"))
            versions[table.version] = f"{name}{count}"

    threads = [threading.Thread(target=append, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    table = ProductTable(tmp_path / "t")
    assert sorted(versions) == list(range(2, 42))
    assert titles(table) == {name: name for name in versions.values()} | {"same": versions[41]}
    for version, title in versions.items():
        assert titles(ProductTable(tmp_path / "t", version))["same"] == title


APPEND = """
import sys
from galleria.catalog.compaction import SMALL_FILE_ROWS
from galleria.catalog.items import deletions
from galleria.catalog.table import ProductTable

table = ProductTable(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for count in range(10):
    table = table.append(deletions([f"{sys.argv[2]}{count}"], table.schema))
"""


@pytest.mark.slow
def test_processes_append_concurrently(tmp_path):
    create_table(tmp_path / "t")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, str(tmp_path / "t"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for name in "ab"
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("go\n")

    table = ProductTable(tmp_path / "t")
    assert [process.returncode for process in started] == [0, 0]
    assert table.version == 21
    ids = table.scan(("id",))["id"].to_pylist()
    assert [name for name in ids if name[0] == "a"] == [f"a{count}" for count in range(10)]
    assert [name for name in ids if name[0] == "b"] == [f"b{count}" for count in range(10)]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "Auf dem Gerät ist kein Speicherplatz mehr"), RuntimeError("LanceError(IO): No space left on device")],
)
def test_append_reports_full_disk(tmp_path, error):
    """The system in any language, and Lance."""
    create_table(tmp_path / "t", rows("a"))

    def full():
        raise error

    with pytest.raises(CatalogFullError, match="free some space"):
        ProductTable(tmp_path / "t", to_disk=Interrupted(1, full)).append(rows("b"))
    assert list(titles(ProductTable(tmp_path / "t"))) == ["a"]


def test_append_keeps_other_disk_errors(tmp_path):
    create_table(tmp_path / "t", rows("a"))

    with pytest.raises(PowerLossError):
        ProductTable(tmp_path / "t", to_disk=Interrupted(1, stop)).append(rows("b"))


def test_vectors_joins_fragments(tmp_path):
    table = create_table(
        tmp_path / "t", *(upserts([{"id": f"{angle}"}], at_angle(angle), HASH) for angle in range(0, 90, 10))
    )

    ids, vectors = table.vectors()

    assert np.allclose(vectors, at_angle(*map(float, ids)), atol=1e-6)


def test_append_to_removed_table_fails(tmp_path):
    """Lance would make a new folder at its path: a write there is lost when the table is brought back."""
    table = create_table(tmp_path / "t", rows("a"))
    (tmp_path / "t").rename(tmp_path / "moved")
    with pytest.raises(StorageError, match="try again"):
        table.append(rows("b"))
    assert not (tmp_path / "t").exists()
    (tmp_path / "moved").rename(tmp_path / "t")
    assert titles(table.append(rows("b"))) == {"a": "a", "b": "b"}


def test_table_removed_during_append_fails(tmp_path):
    def remove(path):
        if path.suffix == ".lance" and not (tmp_path / "moved").exists():
            (tmp_path / "t").rename(tmp_path / "moved")

    create_table(tmp_path / "t", rows("a"))
    with pytest.raises(StorageError):
        ProductTable(tmp_path / "t", to_disk=remove).append(rows("b"))
