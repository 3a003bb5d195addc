"""Validation of a data set: what is rejected as a whole, what by row, and what is streamed."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.demo.products import PRODUCTS
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


def write_parts(folder: Path, **columns: list[pa.Array]) -> str:
    """Parquet files of two rows each; a column has a value for each file."""
    for number in range(len(next(iter(columns.values())))):
        rows = product_rows(2, first=10 * number)[:2]
        table = pa.Table.from_pylist(rows, PRODUCTS)
        for name, values in columns.items():
            if name in table.column_names:
                table = table.drop_columns(name)
            if values[number] is not None:
                table = table.append_column(name, values[number])
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / f"part-{number}.parquet")
    return str(folder)


@pytest.mark.parametrize(
    ("name", "parts", "values"),
    [
        ("text", [pa.nulls(2), pa.array(["a", "b"])], [None, None, "a", "b"]),
        ("text", [pa.array(["a", "b"], pa.large_string()), None], ["a", "b", None, None]),
        ("text", [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "d"])], ["a", "b", "c", "d"]),
        ("price", [pa.array([1, 2]), pa.array([1.5, None])], [1.0, 2.0, 1.5, None]),
        ("price", [pa.array([1, 2], pa.int8()), pa.array([2**40, 0])], [1, 2, 2**40, 0]),
        ("price", [pa.array([Decimal("1.25")] * 2), pa.array([3, 4])], [1.25, 1.25, 3.0, 4.0]),
    ],
)
def test_files_of_other_types_are_joined(
    tmp_path: Path, name: str, parts: list[pa.Array | None], values: list[Any]
) -> None:
    attributes = ("price",) if name == "price" else ()
    key = "attribute:price" if attributes else name

    data = ProductDataset(Source(write_parts(tmp_path / "parts", **{name: parts}), attributes=attributes), FAMILY)

    assert [row.get(key) for row in data.rows("train")] == values


@pytest.mark.parametrize(
    "parts",
    [
        [pa.array(["a", "b"]), pa.array([1, 2])],
        [pa.array(["a", "b"]), pa.array([b"a", b"b"])],
        [pa.array([["a"], ["b"]]), pa.array(["a", "b"])],
    ],
)
def test_types_that_nothing_joins_name_the_file(tmp_path: Path, parts: list[pa.Array]) -> None:
    path = write_parts(tmp_path / "parts", text=parts)

    with pytest.raises(SchemaError, match=r"the column 'text' is .* in .*part-1\.parquet, and .* in files before it"):
        ProductDataset(Source(path), FAMILY)


TIME = datetime(2024, 2, 3, 10, 11, 12)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([Decimal("19.90"), None]), 19.9),
        (pa.array(["red", None]).dictionary_encode(), "red"),
        (pa.array([TIME.date(), None]), "2024-02-03"),
        (pa.array([TIME, None], pa.timestamp("s")), "2024-02-03T10:11:12.000"),
        (pa.array([TIME, None], pa.timestamp("s", "Europe/Berlin")), "2024-02-03T10:11:12.000Z"),
        (pa.array([True, None]), True),
    ],
)
def test_attributes_become_texts_or_numbers(tmp_path: Path, column: pa.Array, value: Any) -> None:
    data = ProductDataset(Source(write_parts(tmp_path / "parts", since=[column]), attributes=("since",)), FAMILY)

    assert [row["attribute:since"] for row in data.rows("train")] == [value, None]


def test_list_attribute_is_rejected(tmp_path: Path) -> None:
    path = write_parts(tmp_path / "parts", sizes=[pa.array([["S"], ["M", "L"]])])

    with pytest.raises(
        SchemaError, match=r"'sizes' is list<.*>: an attribute is one text or number, so write a column"
    ):
        ProductDataset(Source(path, attributes=("sizes",)), FAMILY)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
def test_joined_and_converted_rows_are_streamed(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"from path")
    pictures = [{"bytes": b"from bytes", "path": "a.png"}, {"bytes": None, "path": "../b.png"}]
    path = write_parts(
        tmp_path / "parts",
        image=[pa.array(pictures), pa.array([{"bytes": b"c", "path": None}] * 2)],
        text=[pa.nulls(2), pa.array(["a", "b"])],
        price=[pa.array([1, 2]), pa.array([1.5, None])],
        since=[pa.array([TIME.date(), None]), None],
        sku=[pa.array(["1", "2"]), pa.array(["3", "4"])],
    )
    columns = {"id": "sku", "product_id": "sku"}

    data = ProductDataset(Source(path, columns, attributes=("price", "since")), FAMILY)

    light = list(data.rows("train"))
    streamed = data.stream("train").take_all()
    assert [{name: value for name, value in row.items() if name != "image"} for row in streamed] == light
    assert [row["image"] for row in streamed] == [b"from bytes", b"from path", b"c", b"c"]
    assert [(row["id"], row["product_id"], row["text"], row["attribute:price"]) for row in light] == [
        ("1", "1", None, 1.0),
        ("2", "2", None, 2.0),
        ("3", "3", "a", 1.5),
        ("4", "4", "b", None),
    ]
    assert [row["attribute:since"] for row in light] == ["2024-02-03", None, None, None]
    assert "image" not in light[0]
