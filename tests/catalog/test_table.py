"""The product table gives back what was written, in its order and version."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from galleria.catalog.table import FIELDS, ProductTable, table_schema
from galleria.errors import DataError

IDS = ["b", "a", "ü", "鞋", "👟", "a/../b", "with space", "'quoted'", "x" * 512]


def batch(ids: list[str], dimension: int = 3, bundle_hash: str = "h", seed: int = 0) -> pa.RecordBatch:
    vectors = np.random.default_rng(seed).standard_normal((len(ids), dimension)).astype(np.float32)
    rows: list[dict[str, Any]] = [
        {
            "id": name,
            "image": f"picture {name}".encode(),
            "title": f"Title {name}",
            "text": None,
            "category": ["things", name],
            "product_id": f"p {name}",
            "source": "",
            "embedding": vector.tolist(),
        }
        for name, vector in zip(ids, vectors, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=table_schema(dimension, bundle_hash))


def written(path, *batches: pa.RecordBatch) -> ProductTable:
    return ProductTable.write(path, batches, batches[0].schema)


def test_vectors_and_ids_come_back_as_written_in_any_script(tmp_path):
    content = batch(IDS)
    table = written(tmp_path / "t", content)

    ids, vectors = table.vectors()

    assert ids.tolist() == list(table.ids()) == IDS
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(IDS), 3))
    assert vectors.tolist() == content["embedding"].to_pylist()


def test_several_batches_become_one_table_in_their_order(tmp_path):
    parts = [batch([f"{part}-{row}" for row in range(4)], seed=part) for part in range(3)]

    ids, vectors = written(tmp_path / "t", *parts).vectors()

    assert ids.tolist() == [f"{part}-{row}" for part in range(3) for row in range(4)]
    assert vectors.tolist() == [vector for part in parts for vector in part["embedding"].to_pylist()]


def test_rows_come_in_the_order_asked_for_even_twice(tmp_path):
    table = written(tmp_path / "t", batch(IDS))

    rows = table.rows([4, 0, 4])

    assert [row["id"] for row in rows] == ["👟", "b", "👟"]
    assert rows[1] == {
        "id": "b",
        "title": "Title b",
        "text": None,
        "category": ["things", "b"],
        "product_id": "p b",
        "source": "",
    }
    assert tuple(rows[0]) == ("id", *FIELDS)


def test_rows_hold_the_columns_asked_for(tmp_path):
    assert written(tmp_path / "t", batch(IDS)).rows([3], ["image"]) == [{"id": "鞋", "image": "picture 鞋".encode()}]


def test_no_places_are_no_rows(tmp_path):
    assert written(tmp_path / "t", batch(IDS)).rows([]) == []


def test_a_place_of_the_vectors_is_a_place_of_the_rows(tmp_path):
    table = written(tmp_path / "t", batch(IDS[:5]), batch(IDS[5:], seed=1))

    ids, _ = table.vectors()

    assert [row["id"] for row in table.rows(range(len(table)))] == ids.tolist()


def test_every_write_counts_the_version_up_and_replaces_all(tmp_path):
    first = written(tmp_path / "t", batch(["a", "b"]))
    second = written(tmp_path / "t", batch(["c"], dimension=5, bundle_hash="other"))

    assert (first.version, second.version) == (1, 2)
    assert (len(second), second.bundle_hash) == (1, "other")
    assert second.vectors()[1].shape == (1, 5)


def test_an_open_table_stays_at_its_version(tmp_path):
    first = written(tmp_path / "t", batch(["a", "b"]))
    written(tmp_path / "t", batch(["c"], bundle_hash="other"))

    assert (first.version, first.bundle_hash, len(first)) == (1, "h", 2)
    assert first.vectors()[0].tolist() == ["a", "b"]
    assert ProductTable(tmp_path / "t").version == 2


def test_a_table_of_no_rows_is_a_table(tmp_path):
    table = written(tmp_path / "t", batch([]))

    assert len(table) == 0
    assert table.vectors()[0].tolist() == list(table.ids()) == []
    assert table.vectors()[1].shape == (0, 3)


def test_a_write_that_fails_leaves_the_old_version(tmp_path):
    written(tmp_path / "t", batch(["a"]))

    def broken():
        yield batch(["b"])
        raise RuntimeError("the reader broke")

    with pytest.raises(OSError, match="the reader broke"):
        ProductTable.write(tmp_path / "t", broken(), table_schema(3, "h"))

    table = ProductTable(tmp_path / "t")
    assert (table.version, list(table.ids())) == (1, ["a"])


@pytest.mark.parametrize("made", ["nothing", "empty folder", "file"])
def test_what_is_no_table_says_how_to_make_one(tmp_path, made):
    path = tmp_path / "t"
    if made == "empty folder":
        path.mkdir()
    elif made == "file":
        path.write_text("x")

    with pytest.raises(DataError, match=r"no product table at .*: make one with 'galleria embed'"):
        ProductTable(path)


def test_a_table_is_written_into_an_empty_folder(tmp_path):
    (tmp_path / "t").mkdir()

    assert len(written(tmp_path / "t", batch(IDS))) == len(IDS)


def test_an_id_is_required():
    assert [field.name for field in table_schema(3, "h") if not field.nullable] == ["id", "embedding"]
