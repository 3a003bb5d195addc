"""The product table gives back what was written, at every version, whoever else writes."""

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from galleria.catalog.items import BUNDLE_HASH, FIELDS, FORMAT_KEY, deletions, item_key, table_schema, upserts
from galleria.catalog.table import SMALL_FILE_ROWS, ProductTable
from galleria.durable import sync
from galleria.errors import CatalogFullError, ConfigurationError, DataError, SchemaError
from tests.catalog.tables import HASH, at_angle, held, made, rows, unit

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
    """Ends what is under way."""


def stop():
    raise PowerLossError


def entries(table: ProductTable) -> dict[str, str]:
    """As `held`, without the index of what holds: the last row of every id in the log."""
    log = table.scan(("id", "title", "deleted", "settled")).to_pylist()
    last = {row["id"]: row for row in sorted(log, key=lambda row: not row["settled"])}
    return {name: row["title"] for name, row in last.items() if not row["deleted"]}


def test_a_new_table_is_empty(tmp_path):
    table = made(tmp_path / "t")

    assert (table.version, table.newest, table.bundle_hash, table.dimension) == (1, 1, HASH, 3)
    assert (held(table), table.key_map().count, table.fragments) == ({}, 0, ())
    assert table.vectors()[1].shape == (0, 3)
    assert table.scan(("id",)).num_rows == 0


def test_ids_and_vectors_come_back_as_written_in_any_script(tmp_path):
    table = made(tmp_path / "t", rows(*IDS))

    ids, vectors = table.vectors()

    order = sorted(range(len(IDS)), key=lambda place: item_key(IDS[place]))
    assert ids.tolist() == [IDS[place] for place in order]
    assert vectors.tolist() == unit(len(IDS))[order].tolist()
    assert held(table) == {name: name for name in IDS}
    assert [table.item(name)["id"] for name in IDS] == list(IDS)


def test_an_item_holds_the_columns_asked_for(tmp_path):
    table = made(tmp_path / "t", rows("a", image=b"picture", category=["x", "y"], attributes={"price": 2}))

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


def test_the_last_row_of_an_id_holds(tmp_path):
    table = made(tmp_path / "t", rows("a", "b", title="first"), rows("a", title="second"))

    assert held(table) == {"a": "second", "b": "first"}


def test_a_deleted_item_is_gone_and_can_come_back(tmp_path):
    first = made(tmp_path / "t", rows("a", "b"))
    second = first.append(deletions(["a", "never there"], first.schema))
    third = second.append(rows("a", title="again"))

    assert [held(table) for table in (first, second, third)] == [
        {"a": "a", "b": "b"},
        {"b": "b"},
        {"a": "again", "b": "b"},
    ]


def test_every_commit_counts_the_version_up_and_an_open_table_stays_at_its_version(tmp_path):
    first = made(tmp_path / "t", rows("a"))
    second = first.append(rows("b"))

    assert (first.version, second.version) == (2, 3)
    assert (first.newest, second.newest, first.latest().version) == (3, 3, 3)
    assert list(held(first)) == ["a"]


def test_rows_come_in_the_order_asked_for_even_twice(tmp_path):
    table = made(tmp_path / "t", rows("a", "b"), rows("c"))
    address = {row["id"]: row["_rowaddr"] for row in table.scan(("id",)).to_pylist()}

    found = table.rows([address["c"], address["a"], address["c"]])

    assert [row["id"] for row in found] == ["c", "a", "c"]
    assert table.take([address["b"]], ("title",)).to_pylist() == [{"title": "b"}]


def test_no_addresses_are_no_rows(tmp_path):
    table = made(tmp_path / "t", rows("a"))

    assert (table.rows([]), table.take([], ("id", "embedding")).column_names) == ([], ["id", "embedding"])


def test_items_come_in_batches_ordered_by_key(tmp_path):
    table = made(tmp_path / "t", rows(*"abcde"), rows("c", title="new"))

    batches = list(table.items(("id", "key", "title"), rows=2))

    assert [len(batch) for batch in batches] == [2, 2, 1]
    keys = [key for batch in batches for key in batch["key"].to_pylist()]
    assert keys == sorted(item_key(name) for name in "abcde")


def test_a_reader_of_many_batches_is_one_commit(tmp_path):
    table = made(tmp_path / "t")
    batches = [rows("a"), rows("b"), rows("c")]

    table = table.append(pa.RecordBatchReader.from_batches(table.schema, batches))

    assert (table.version, sorted(held(table))) == (2, ["a", "b", "c"])


def test_what_was_added_is_read_alone(tmp_path):
    first = made(tmp_path / "t", rows("a"))
    third = first.append(rows("b")).append(rows("a", title="new"))

    added = third.added(first, ("key", "id", "title"))

    assert [(row["id"], row["title"]) for row in added.to_pylist()] == [("b", "b"), ("a", "new")]
    assert third.added(third).num_rows == 0
    assert first.added(third) is None


def test_what_holds_can_be_carried_on_from_an_earlier_version(tmp_path):
    first = made(tmp_path / "t", rows("a", "b"))
    held_first = first.key_map()
    third = first.append(rows("c")).append(deletions(["a"], first.schema))

    carried, read = third.key_map(since=(first, held_first)), third.key_map()

    assert [column.tolist() for column in carried.arrays()] == [column.tolist() for column in read.arrays()]
    compacted = third.compact()
    assert compacted.added(third) is None
    assert list(compacted.key_map(since=(third, read))) == list(read)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    table = made(tmp_path / "t")

    with pytest.raises(SchemaError, match="do not fit"):
        table.append(upserts([{"id": "a"}], unit(1, dimension=4), HASH))
    with pytest.raises(SchemaError, match="another bundle than bbbbbbbbbbbb"):
        table.append(upserts([{"id": "a"}], unit(1), "c" * 64))
    with pytest.raises(SchemaError, match="do not fit"):
        table.append(pa.table({"id": ["a"]}))
    assert table.newest == 1


@pytest.mark.parametrize("content", ["nothing", "empty folder", "file", "folder of something else"])
def test_what_is_no_table_says_how_to_make_one(tmp_path, content):
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


def test_a_table_is_made_once(tmp_path):
    made(tmp_path / "t")

    with pytest.raises(ConfigurationError, match="already"):
        made(tmp_path / "t")


def test_a_table_is_made_in_an_empty_folder_and_in_folders_that_are_not_there(tmp_path):
    (tmp_path / "t").mkdir()

    assert made(tmp_path / "t", rows("a")).version == made(tmp_path / "x" / "y", rows("a")).version == 2


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"2", r"has format 2, this galleria reads 1: upgrade it"),
        (b"0", "is no product table"),
        (b"", "is no product table"),
        (b"one", "is no product table"),
        (b"-1", "is no product table"),
    ],
)
def test_a_table_of_another_format_is_refused(tmp_path, written, message):
    schema = table_schema(3, HASH).with_metadata({BUNDLE_HASH: HASH.encode(), FORMAT_KEY: written})
    lance.write_dataset(schema.empty_table(), str(tmp_path / "t"))

    with pytest.raises(SchemaError, match=message):
        ProductTable(tmp_path / "t")


def test_a_table_of_something_else_is_refused(tmp_path):
    lance.write_dataset(pa.table({"id": ["a"]}), str(tmp_path / "t"))

    with pytest.raises(SchemaError, match="is no product table"):
        ProductTable(tmp_path / "t")


def test_an_old_version_opens_by_its_number_and_by_the_name_of_its_snapshot(tmp_path):
    table = made(tmp_path / "t", rows("a"))
    table.snapshot("before")
    table.append(rows("b"))

    assert list(held(ProductTable(tmp_path / "t", 2))) == list(held(ProductTable(tmp_path / "t", "before"))) == ["a"]
    assert ProductTable(tmp_path / "t").snapshots() == {"before": 2}
    assert [version for version, _ in table.latest().versions()] == [1, 2, 3]


@pytest.mark.parametrize("version", [99, "never"])
def test_a_version_that_is_not_there_is_refused_and_named(tmp_path, version):
    made(tmp_path / "t")

    with pytest.raises(DataError, match=f"no version or snapshot {version!r}"):
        ProductTable(tmp_path / "t", version)


@pytest.mark.parametrize("name", ["taken", "", "a b", "../a"])
def test_a_snapshot_has_a_name_of_its_own(tmp_path, name):
    table = made(tmp_path / "t")
    table.snapshot("taken")

    with pytest.raises(ConfigurationError, match="cannot be made"):
        table.snapshot(name)


def test_restoring_makes_an_old_version_the_newest(tmp_path):
    second = made(tmp_path / "t", rows("a", title="first"))
    third = second.append(rows("a", "b", title="second"))

    restored = ProductTable(tmp_path / "t", 2).restore()

    assert (restored.version, held(restored)) == (4, {"a": "first"})
    assert held(third) == held(ProductTable(tmp_path / "t", 3)) == {"a": "second", "b": "second"}
    assert held(restored.append(rows("c"))) == {"a": "first", "c": "c"}


def test_rows_behind_a_restored_version_are_not_taken_for_those_that_were_there(tmp_path):
    second = made(tmp_path / "t", rows("a"))
    third = second.append(rows("b"))

    fifth = second.restore().append(rows("c"))

    assert fifth.added(third) is None
    assert list(fifth.key_map(since=(third, third.key_map()))) == list(fifth.key_map())


def test_compacting_removes_what_is_superseded_and_changes_nothing_that_holds(tmp_path):
    table = made(tmp_path / "t")
    for version in range(5):
        table = table.append(rows("a", "b", f"{version}", title=f"{version}"))
    table = table.append(deletions(["b", "0"], table.schema))
    before = held(table)

    compacted = table.compact()

    assert before == held(compacted) == {"a": "4", "1": "1", "2": "2", "3": "3", "4": "4"}
    assert compacted.scan(("id",)).num_rows == len(before)
    assert len(compacted.fragments) == 1
    assert held(table) == before


def test_compacting_twice_changes_nothing(tmp_path):
    compacted = made(tmp_path / "t", rows("a"), rows("a")).compact()

    assert compacted.compact().version == compacted.version


def test_compacting_a_table_of_deletions_leaves_none(tmp_path):
    table = made(tmp_path / "t", rows("a"))
    table = table.append(deletions(["a"], table.schema))

    compacted = table.compact(NOW)

    assert (held(compacted), compacted.scan(("id",)).num_rows) == ({}, 0)
    assert held(compacted.append(rows("b"))) == {"b": "b"}


def test_old_versions_are_forgotten_but_those_with_a_name(tmp_path):
    table = made(tmp_path / "t", rows("a"), rows("b"))
    ProductTable(tmp_path / "t", 2).snapshot("kept")

    compacted = table.compact(NOW)

    assert [version for version, _ in compacted.versions()] == [2, compacted.version]
    assert list(held(ProductTable(tmp_path / "t", "kept"))) == ["a"]
    assert len(list((tmp_path / "t" / "data").iterdir())) == 2


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_another_may_write_while_one_compacts(tmp_path, at):
    made(tmp_path / "t", rows("a", "b", "c", title="first"), rows("a", title="second"))

    def write():
        latest = ProductTable(tmp_path / "t")
        latest.append(rows("b", title="meanwhile")).append(deletions(["c"], latest.schema))

    ProductTable(tmp_path / "t", to_disk=Interrupted(at, write)).compact()

    table = ProductTable(tmp_path / "t")
    assert held(table) == entries(table) == {"a": "second", "b": "meanwhile"}
    assert held(table.append(rows("c", title="again"))) == {"a": "second", "b": "meanwhile", "c": "again"}
    assert held(table.compact()) == {"a": "second", "b": "meanwhile", "c": "again"}


@pytest.mark.parametrize("at", [1, 2])
def test_of_two_that_tidy_at_once_one_does_the_work(tmp_path, at, caplog):
    made(tmp_path / "t", rows("a", "b", title="first"), rows("a", title="second"), rows("c"))

    def compact():
        ProductTable(tmp_path / "t").compact()

    compacted = ProductTable(tmp_path / "t", to_disk=Interrupted(at, compact)).compact()

    assert held(compacted) == {"a": "second", "b": "first", "c": "c"}
    assert compacted.scan(("id",)).num_rows == 3
    assert "compacted by another process meanwhile" in caplog.text


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_compacting_cut_off_anywhere_brings_nothing_back(tmp_path, at):
    table = made(tmp_path / "t", rows("a", "b", "c"), rows("a", title="second"))
    table = table.append(deletions(["b"], table.schema)).append(rows("d"))

    with pytest.raises(PowerLossError):
        ProductTable(tmp_path / "t", to_disk=Interrupted(at, stop)).compact(NOW)

    left = ProductTable.recover(tmp_path / "t")
    assert held(left) == entries(left) == {"a": "second", "c": "c", "d": "d"}
    assert held(left.compact(NOW)) == {"a": "second", "c": "c", "d": "d"}


def test_files_that_another_rewrote_are_not_rewritten(tmp_path):
    stale = made(tmp_path / "t", rows("a", "b", "c", title="first"), rows("a", title="second"))
    compacted = stale.compact()

    with pytest.raises(OSError, match="conflict"):
        stale._rewrite()

    assert held(compacted.latest()) == {"a": "second", "b": "first", "c": "first"}


def test_files_of_many_rows_are_left_alone_until_a_row_of_theirs_is_superseded(tmp_path):
    many = [f"{number}" for number in range(SMALL_FILE_ROWS)]
    table = made(tmp_path / "t", rows(*many), rows("x", title="first"), rows("x", title="second"), rows("y"))

    compacted = table.compact()

    assert [deleted for _, deleted in compacted.fragments] == [0, 0]
    assert compacted.fragments[0] == table.fragments[0]
    assert held(compacted) == {name: name for name in many} | {"x": "second", "y": "y"}
    last = compacted.append(rows("7", "y", title="new")).compact()
    assert held(last) == held(compacted) | {"7": "new", "y": "new"}
    assert len(last.fragments) == 1
    assert last.scan(("id",)).num_rows == SMALL_FILE_ROWS + 2


def test_handles_that_append_at_once_all_get_in_in_one_order(tmp_path):
    made(tmp_path / "t")
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
    assert held(table) == {name: name for name in versions.values()} | {"same": versions[41]}
    for version, title in versions.items():
        assert held(ProductTable(tmp_path / "t", version))["same"] == title


APPEND = """
import sys
from galleria.catalog.items import deletions
from galleria.catalog.table import ProductTable

table = ProductTable(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for count in range(10):
    table = table.append(deletions([f"{sys.argv[2]}{count}"], table.schema))
"""


@pytest.mark.slow
def test_processes_that_append_at_once_all_get_in(tmp_path):
    made(tmp_path / "t")
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


def test_a_full_disk_is_told_as_such_and_nothing_is_written(tmp_path):
    made(tmp_path / "t", rows("a"))

    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(CatalogFullError, match="make room"):
        ProductTable(tmp_path / "t", to_disk=Interrupted(1, full)).append(rows("b"))
    assert list(held(ProductTable(tmp_path / "t"))) == ["a"]


def test_an_error_of_the_disk_that_is_not_its_room_stays_what_it_is(tmp_path):
    made(tmp_path / "t", rows("a"))

    with pytest.raises(PowerLossError):
        ProductTable(tmp_path / "t", to_disk=Interrupted(1, stop)).append(rows("b"))


def test_vectors_of_many_fragments_come_together(tmp_path):
    table = made(tmp_path / "t", *(upserts([{"id": f"{angle}"}], at_angle(angle), HASH) for angle in range(0, 90, 10)))

    ids, vectors = table.vectors()

    assert np.allclose(vectors, at_angle(*map(float, ids)), atol=1e-6)
