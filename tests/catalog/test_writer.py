"""The writer reports the result of every request once it is durable."""

import threading
from concurrent.futures import Future

import lance
import numpy as np
import pytest

from galleria.catalog.items import deletions
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter, WriteResult
from galleria.durable import sync
from galleria.errors import CatalogFullError, ConfigurationError, DataError, SchemaError, StorageError
from tests.catalog.tables import at_angle, create_table, rows, titles, unit


class Gate:
    """A disk that waits until it is opened: requests meanwhile share one commit."""

    def __init__(self):
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, path):
        self.reached.set()
        assert self.open.wait(60)
        sync(path)


@pytest.fixture
def writer(tmp_path):
    create_table(tmp_path / "t")
    writer = CatalogWriter(tmp_path / "t")
    yield writer
    writer.close()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def gated(tmp_path, gate):
    """A writer that waits in its first commit, of the item "first"."""
    create_table(tmp_path / "t")
    writer = CatalogWriter(tmp_path / "t", to_disk=gate)
    put(writer, "first")
    assert gate.reached.wait(60)
    yield writer
    gate.open.set()
    writer.close()


def put(writer: CatalogWriter, *ids: str, **fields: object) -> "Future[WriteResult]":
    return writer.put([{"id": name} | fields for name in ids], unit(len(ids)))


def test_statuses_of_item_lifecycle(writer):
    answers = [
        put(writer, "a").result(),
        put(writer, "a").result(),
        put(writer, "a", title="new").result(),
        writer.delete(["a"]).result(),
        writer.delete(["a"]).result(),
        put(writer, "a", title="new").result(),
    ]

    assert [answer.statuses for answer in answers] == [
        ("created",),
        ("unchanged",),
        ("updated",),
        ("deleted",),
        ("absent",),
        ("created",),
    ]
    assert [answer.version for answer in answers] == [2, 2, 3, 4, 4, 5]


def test_statuses_follow_request_order(writer):
    put(writer, "a", "b").result()

    assert put(writer, "a", "c", "d").result().statuses == ("unchanged", "created", "created")
    assert writer.delete(["x", "d", "a"]).result().statuses == ("absent", "deleted", "deleted")
    assert sorted(titles(writer.table)) == ["b", "c"]


def test_duplicate_ids_are_written_in_order(writer):
    items = [{"id": "a", "title": "first"}, {"id": "a", "title": "first"}, {"id": "a", "title": "second"}]

    assert writer.put(items, at_angle(0, 0, 0)).result().statuses == ("created", "unchanged", "updated")
    assert titles(writer.table) == {"a": "second"}
    assert writer.delete(["a", "a"]).result().statuses == ("deleted", "absent")


def test_requests_see_earlier_ones_in_commit(gated, gate):
    waiting = [
        put(gated, "a", title="first"),
        put(gated, "a", title="second"),
        gated.delete(["a", "b"]),
        put(gated, "b", title="first"),
        put(gated, "b", title="first"),
        gated.delete(["first"]),
        put(gated, "a", title="third"),
    ]
    gate.open.set()

    answers = [answer.result() for answer in waiting]

    assert [answer.statuses for answer in answers] == [
        ("created",),
        ("updated",),
        ("deleted", "absent"),
        ("created",),
        ("unchanged",),
        ("deleted",),
        ("created",),
    ]
    assert {answer.version for answer in answers} == {3}
    assert titles(gated.table) == titles(gated.table.latest()) == {"a": "third", "b": "first"}


def test_concurrent_requests_share_commits(writer):
    def ask(name):
        for count in range(25):
            assert put(writer, f"{name}{count}").result().statuses == ("created",)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(titles(writer.table)) == 200
    assert writer.table.version < 150


def test_requests_during_commit_are_batched(gated, gate):
    waiting = [put(gated, f"{count}") for count in range(100)]
    gate.open.set()

    assert {answer.result().version for answer in waiting} == {3}


def test_put_completes_once_durable(gated, gate):
    answer = put(gated, "a")

    assert not answer.done()
    gate.open.set()
    assert answer.result().statuses == ("created",)


def test_invalid_request_spares_others(gated, gate):
    before = put(gated, "a")
    with pytest.raises(DataError, match="not of unit length"):
        gated.put([{"id": "b"}], np.full((1, 3), np.nan, np.float32))
    with pytest.raises(DataError, match=r"shape \(1, 4\), the table takes 1 × 3"):
        gated.put([{"id": "b"}], unit(1, dimension=4))
    with pytest.raises(DataError, match=r"shape \(2, 3\), the table takes 1 × 3"):
        gated.put([{"id": "b"}], unit(2))
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        gated.put([{"id": "b"}], unit(1)[0])
    with pytest.raises(DataError, match="1 to 512 bytes"):
        gated.put([{"id": "b"}, {"id": ""}], unit(2))
    with pytest.raises(SchemaError, match="title"):
        put(gated, "b", title=5)
    with pytest.raises(DataError, match="attribute"):
        put(gated, "b", attributes={"a": [1]})
    with pytest.raises(DataError, match="not valid Unicode"):
        gated.delete(["first", "\ud800"])
    after = put(gated, "c")
    gate.open.set()

    assert before.result().version == after.result().version == 3
    assert sorted(titles(gated.table)) == ["a", "c", "first"]


def test_cancelled_request_is_not_written(gated, gate):
    cancelled, other = put(gated, "a"), put(gated, "b")
    assert cancelled.cancel()
    gate.open.set()

    assert other.result().statuses == ("created",)
    assert put(gated, "c").result().statuses == ("created",)
    assert sorted(titles(gated.table)) == ["b", "c", "first"]


def test_no_items_make_no_commit(writer):
    assert writer.put([], unit(0)).result() == writer.delete([]).result() == WriteResult(1, ())
    assert writer.table.version == 1


def test_status_depends_on_own_vector_only(writer):
    seen = {"id": "a", "image": b"picture", "attributes": {"price": 2}}
    puts = [
        (seen, 0, "created"),
        (seen | {"attributes": '{"price": 2}'}, 0, "unchanged"),
        (seen, 90, "unchanged"),  # the same model embeds it the same, except for rounding
        (seen | {"vector": at_angle(90)[0]}, 90, "updated"),
        (seen | {"vector": at_angle(90)[0]}, 90, "unchanged"),
        (seen | {"vector": at_angle(80)[0]}, 80, "updated"),
        ({"id": "b"}, 10, "created"),
        ({"id": "b"}, 10, "unchanged"),
        ({"id": "b"}, 20, "updated"),  # nothing but its vector
    ]
    for item, angle, status in puts:
        assert writer.put([item], at_angle(angle)).result().statuses == (status,)


def test_writers_see_each_others_commits(tmp_path):
    create_table(tmp_path / "t")
    one, other = CatalogWriter(tmp_path / "t"), CatalogWriter(tmp_path / "t")

    assert put(one, "a", title="first").result() == WriteResult(2, ("created",))
    assert put(other, "a", title="second").result() == WriteResult(3, ("updated",))
    assert put(one, "a", title="first").result() == WriteResult(4, ("updated",))
    assert other.delete(["a"]).result() == WriteResult(5, ("deleted",))
    assert one.delete(["a"]).result() == WriteResult(5, ("absent",))
    one.close()
    other.close()


def test_writers_commit_concurrently(tmp_path):
    create_table(tmp_path / "t")
    writers = [CatalogWriter(tmp_path / "t") for _ in range(2)]
    answers = [put(writers[count % 2], f"{count}") for count in range(40)]

    assert {answer.result().statuses for answer in answers} == {("created",)}
    for writer in writers:
        writer.close()
    assert len(titles(ProductTable(tmp_path / "t"))) == 40


def test_writer_follows_compact_and_restore(tmp_path, writer):
    put(writer, "a", title="first").result()
    put(writer, "a", "b", title="second").result()
    ProductTable(tmp_path / "t").compact()
    assert put(writer, "a", "c", title="second").result().statuses == ("unchanged", "created")

    ProductTable(tmp_path / "t", 2).restore()

    assert put(writer, "a", "b", title="first").result().statuses == ("unchanged", "created")
    assert titles(writer.table) == {"a": "first", "b": "first"}


def test_writer_reads_existing_items(tmp_path):
    table = create_table(tmp_path / "t", rows("a", "b"))
    table.append(deletions(["b"], table.schema))

    writer = CatalogWriter(tmp_path / "t")

    assert writer.put([{"id": name, "title": name} for name in "ab"], unit(2)).result().statuses == (
        "unchanged",
        "created",
    )
    writer.close()


def test_close_commits_queued_requests(gated, gate):
    waiting = [put(gated, f"{count}") for count in range(10)]
    gate.open.set()

    gated.close()

    assert all(answer.done() for answer in waiting)
    assert len(titles(ProductTable(gated.table.path))) == 11
    with pytest.raises(ConfigurationError, match="closed"):
        put(gated, "late")
    gated.close()


def test_failed_commit_raises_then_recovers(tmp_path):
    create_table(tmp_path / "t")
    errors = [OSError(28, "No space left on device")]

    def disk(path):
        if errors and path.suffix == ".lance":
            raise errors.pop()
        sync(path)

    writer = CatalogWriter(tmp_path / "t", to_disk=disk)

    with pytest.raises(CatalogFullError, match="free some space"):
        put(writer, "a").result()
    assert put(writer, "a").result().statuses == ("created",)
    writer.close()


def test_open_rejects_missing_table(tmp_path):
    with pytest.raises(DataError, match="no product table"):
        CatalogWriter(tmp_path / "t")


class FailingDisk:
    """A disk that fails to sync files whose name ends like `failing`; it keeps the names of those that it syncs."""

    def __init__(self):
        self.failing = "nothing"
        self.synced = []

    def __call__(self, path):
        if path.name.endswith(self.failing):
            raise OSError(5, "Input/output error")
        self.synced.append(path.name)


@pytest.mark.parametrize("failing", [".manifest", ".lance"])
def test_unchanged_item_is_durable(tmp_path, failing):
    """Its first commit was not: the sync failed after it was visible, or before."""
    create_table(tmp_path / "t")
    disk = FailingDisk()
    writer = CatalogWriter(tmp_path / "t", to_disk=disk)
    assert put(writer, "a").result().statuses == ("created",)
    disk.failing = failing
    with pytest.raises(StorageError):
        put(writer, "b").result()
    with pytest.raises(StorageError):
        put(writer, "b").result()
    disk.failing = "nothing"
    [status] = put(writer, "b").result().statuses
    assert status == ("unchanged" if failing == ".manifest" else "created")
    table = ProductTable(tmp_path / "t")
    assert newest_files(table.path) <= {*disk.synced}
    writer.close()


def test_first_write_makes_table_durable(tmp_path):
    """A writer that died may have left a commit that is visible, and not on the disk."""
    create_table(tmp_path / "t", rows("a"))
    disk = FailingDisk()
    writer = CatalogWriter(tmp_path / "t", to_disk=disk)
    [item] = ProductTable(tmp_path / "t").items(("id", "title"))
    assert writer.put(item.to_pylist(), unit(1)).result().statuses == ("unchanged",)
    assert newest_files(tmp_path / "t") <= {*disk.synced}
    writer.close()


def newest_files(path):
    """Names of the files that the newest version of a table consists of."""
    dataset = lance.dataset(path)
    files = {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}
    return files | {f"{2**64 - 1 - dataset.version:020d}.manifest"}
