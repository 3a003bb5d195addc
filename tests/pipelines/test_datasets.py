"""Validation of a data set: what is rejected as a whole, what by row, and what is streamed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.errors import EmptyDatasetError, SchemaError
from galleria.learn.family import load_family
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.rejects import Reject, write_rejects
from tests.drawings import product_rows
from tests.pipelines.conftest import Write

FAMILY = load_family("text_guided")


def reasons(data: ProductDataset) -> dict[str, str]:
    return {reject.id: reject.reason for reject in data.rejects}


def test_clean_rows_are_counted(clean_data: str) -> None:
    data = ProductDataset(Source(clean_data, category_depth=2), FAMILY)
    assert data.rejects == []
    assert data.counts == {"train": 96, "validation": 24, "test": 24}
    assert data.ignored == []


def test_rows_are_read_without_their_pictures(clean_data: str) -> None:
    rows = list(ProductDataset(Source(clean_data), FAMILY).rows("validation"))
    assert len(rows) == 24
    assert "image" not in rows[0]
    assert rows[0]["product_id"] == "product 100"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"product_id": ""}, "'product_id' is empty"),
        ({"split": "training"}, "split 'training' is unknown: use one of train, validation, test"),
        ({"category": ["things"]}, "'things' has 1 levels, not 2"),
        ({"category": None}, "'nothing' has 0 levels, not 2"),
        ({"category": ["a", "b", "c"]}, "'a / b / c' has 3 levels, not 2"),
        ({"category": ["a", None]}, "category is ['a', None]: send a list of names from the root"),
        ({"category": [None]}, "category is [None]"),
    ],
)
def test_bad_row_is_rejected_with_its_reason(write: Write, change: dict[str, Any], reason: str) -> None:
    rows = product_rows(4)
    rows[3] |= change
    data = ProductDataset(Source(write(rows), category_depth=2), FAMILY)
    [reject] = data.rejects
    assert (reject.id, reject.row, reject.kept) == (rows[3]["id"], 3, False)
    assert reason in reject.reason
    assert data.counts == {"train": 7}


def test_duplicate_ids_are_rejected(write: Write) -> None:
    rows = product_rows(4)
    rows[5]["id"] = rows[2]["id"]
    data = ProductDataset(Source(write(rows)), FAMILY)
    assert [(reject.id, reject.row) for reject in data.rejects] == [(rows[2]["id"], 2), (rows[2]["id"], 5)]
    assert data.counts == {"train": 6}


def test_row_without_text_is_kept_and_reported(write: Write) -> None:
    rows = product_rows(4)
    rows[1]["text"] = None
    data = ProductDataset(Source(write(rows)), FAMILY)
    [reject] = data.rejects
    assert reject.kept
    assert "text is missing" in reject.reason
    assert data.counts == {"train": 8}


def test_category_depth_is_optional(write: Write) -> None:
    rows = product_rows(2)
    rows[0]["category"] = ["a", "b", "c"]
    assert ProductDataset(Source(write(rows)), FAMILY).rejects == []


def test_empty_split_lists_the_others(write: Write) -> None:
    data = ProductDataset(Source(write(product_rows(4))), FAMILY)
    assert data.require("train") == 8
    with pytest.raises(EmptyDatasetError, match=r"'validation' .* no usable row \(found: train 8\)"):
        data.require("validation")


def test_no_usable_row_gives_the_first_reason(write: Write) -> None:
    rows = [row | {"product_id": ""} for row in product_rows(3)]
    with pytest.raises(EmptyDatasetError, match="'product_id' is empty"):
        ProductDataset(Source(write(rows)), FAMILY)


def test_file_without_rows_is_rejected(write: Write) -> None:
    with pytest.raises(EmptyDatasetError, match="has no rows"):
        ProductDataset(Source(write([])), FAMILY)


def test_missing_column_suggests_the_nearest(tmp_path: Path, clean_data: str) -> None:
    path = tmp_path / "other.parquet"
    table = pq.read_table(clean_data)
    pq.write_table(table.rename_columns(["product" if n == "product_id" else n for n in table.column_names]), path)
    with pytest.raises(
        SchemaError, match=r"no column 'product_id': did you mean 'product'\? Add --column product_id=product"
    ):
        ProductDataset(Source(str(path)), FAMILY)
    renamed = ProductDataset(Source(str(path), {"product_id": "product"}), FAMILY)
    assert next(iter(renamed.rows("train")))["product_id"] == "product 0"


def test_unknown_column_option_lists_the_known(clean_data: str) -> None:
    with pytest.raises(SchemaError, match="unknown column 'colour': text_guided reads category, id, image"):
        ProductDataset(Source(clean_data, {"colour": "id"}), FAMILY)


def test_unread_columns_are_reported(tmp_path: Path, clean_data: str) -> None:
    path = tmp_path / "wider.parquet"
    table = pq.read_table(clean_data)
    pq.write_table(table.append_column("price", pa.array([1.0] * len(table))), path)
    data = ProductDataset(Source(str(path)), FAMILY)
    assert data.ignored == ["price"]
    [notice] = data.rejects
    assert notice.kept
    assert "the column 'price' is not read" in notice.reason


def test_column_of_wrong_type_is_rejected(tmp_path: Path, clean_data: str) -> None:
    path = tmp_path / "typed.parquet"
    table = pq.read_table(clean_data)
    index = table.column_names.index("product_id")
    pq.write_table(table.set_column(index, "product_id", pa.array(range(len(table)))), path)
    with pytest.raises(SchemaError, match=r"'product_id' .* is int64, not string: convert it"):
        ProductDataset(Source(str(path)), FAMILY)


@pytest.mark.parametrize("content", [None, b"", b"id,image\n1,2\n"])
def test_invalid_parquet_is_rejected(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "products.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SchemaError, match="cannot be read as parquet"):
        ProductDataset(Source(str(path)), FAMILY)


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="holds no parquet file"):
        ProductDataset(Source(str(tmp_path)), FAMILY)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
def test_stream_has_good_rows_in_order(write: Write) -> None:
    rows = product_rows(6) + product_rows(3, "test", first=50)
    rows[2]["split"] = "?"
    rows[4]["id"] = rows[5]["id"]
    data = ProductDataset(Source(write(rows)), FAMILY)
    good = [row["id"] for index, row in enumerate(rows) if index not in (2, 4, 5) and row["split"] == "train"]
    streamed = data.stream("train").take_all()
    assert [row["id"] for row in streamed] == good
    assert bytes(streamed[0]["image"]) == rows[0]["image"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
def test_gallery_drops_queries_of_other_splits(clean_data: str, clean_rows: list[dict[str, Any]]) -> None:
    data = ProductDataset(Source(clean_data), FAMILY)
    everything = {row["id"] for row in data.gallery("test").take_all()}
    assert everything == {row["id"] for row in clean_rows if row["role"] == "gallery" or row["split"] == "test"}
    assert {row["id"] for row in data.gallery().take_all()} == {
        row["id"] for row in clean_rows if row["role"] == "gallery"
    }


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), None])
def test_rows_without_split_are_trained_on(kind: pa.DataType | None, tmp_path: Path) -> None:
    rows = product_rows(6) + product_rows(2, "test", first=50)
    for row, split in zip(rows, (None, "", "train"), strict=False):
        row["split"] = split
    table = pa.Table.from_pylist(rows)
    if kind is None:
        table = table.drop_columns("split")
    else:
        table = table.set_column(table.schema.get_field_index("split"), "split", table["split"].cast(kind))
    pq.write_table(table, tmp_path / "rows.parquet")
    data = ProductDataset(Source(str(tmp_path / "rows.parquet")), FAMILY)
    expected = {row["id"]: "train" if kind is None else row["split"] or "train" for row in rows}
    train = [name for name, split in expected.items() if split == "train"]
    assert [row["id"] for row in data.stream("train").take_all()] == train
    assert [row["id"] for row in data.rows("train")] == train
    assert data.counts["train"] == len(train)
    gallery = {row["id"]: row["split"] for row in data.gallery("train").take_all()}
    assert gallery == {name: split for name, split in expected.items() if name in gallery}
    assert gallery.keys() >= set(train)


def test_rejects_are_sorted_and_unique(tmp_path: Path) -> None:
    rejects = [Reject("b", "bad", 4), Reject("a", "worse", 1, kept=True), Reject("b", "bad", 4)]
    path = write_rejects(tmp_path / "out", rejects)
    assert path.read_text().splitlines() == [
        '{"id": "a", "reason": "worse", "row": 1, "kept": true}',
        '{"id": "b", "reason": "bad", "row": 4, "kept": false}',
    ]
