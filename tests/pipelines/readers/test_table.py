"""Tables become rows."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.errors import ConfigurationError, SchemaError
from galleria.pipelines.readers.options import NUMBER
from galleria.pipelines.splits import split_of
from tests.pipelines.readers.files import read, rows_of


def test_levels_and_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(
        "sku,file,department,kind,description,set\n"
        '7,pictures/7.jpg,clothes,"shirts, plain",A white shirt,train\n'
        "8,/elsewhere/8.jpg,clothes,,,test\n"
        "9,s3://shop/9.jpg,shoes,boots,Boots,\n"
    )
    columns = {"id": "sku", "image": "file", "product_id": "sku", "text": "description", "split": "set"}

    rows = rows_of(tmp_path / "products.csv", "text_guided", columns=columns, levels=["department", "kind"])

    assert rows[0] == {
        "id": "7",
        "image": f"{tmp_path}/pictures/7.jpg",
        "product_id": "7",
        "text": "A white shirt",
        "category": ["clothes", "shirts, plain"],
        "split": "train",
    }
    assert (rows[1]["image"], rows[1]["category"], rows[1]["split"]) == ("/elsewhere/8.jpg", ["clothes"], "test")
    assert (rows[2]["image"], rows[2]["split"]) == ("s3://shop/9.jpg", split_of("9"))


def test_list_cell_is_split(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("id,video,events\na,a.mp4,jump; walk\nb,b.mp4,\n")

    rows = rows_of(tmp_path / "clips.csv", "video_event")

    assert rows[0]["events"] == ["jump", "walk"]
    assert rows[1].get("events") in (None, [])


def test_parquet_keeps_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    table = {"id": ["a"], "image": ["a.png"], "product_id": ["p"], "category": [["x", "y"]]}
    pq.write_table(pa.table(table), path)

    [row] = rows_of(path, "text_guided")

    assert (row["image"], row["category"]) == (f"{tmp_path}/a.png", ["x", "y"])


def test_missing_column_lists_those_present(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,file\n1,a.jpg\n")

    with pytest.raises(SchemaError, match=r"no column 'image': add --column image=NAME.*its columns: id, file"):
        rows_of(tmp_path / "products.csv", "text_guided")
    with pytest.raises(SchemaError, match="no column 'kind'"):
        rows_of(tmp_path / "products.csv", "text_guided", columns={"image": "file"}, levels=["kind"])


def test_unknown_column_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,image,tint\n1,a.jpg,red\n")

    with pytest.raises(ConfigurationError, match="unknown column 'colour': text_guided reads category, id, image"):
        rows_of(tmp_path / "products.csv", "text_guided", columns={"colour": "tint"})


def test_feeds_category_paths_are_split(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(
        "id,image,category\n1,a,Home & Garden > Kitchen; Dining > Pans\n2,b,home; pans\n3,c, > Pots > \n4,d,\n"
        "5,e,Home &amp; Garden\n"
    )

    rows = rows_of(path, "text_guided")

    paths = [row.get("category") for row in rows]
    assert paths == [
        ["Home & Garden", "Kitchen; Dining", "Pans"],
        ["home; pans"],
        ["Pots"],
        None,
        ["Home &amp; Garden"],
    ]


@pytest.mark.parametrize("separator", ["/", "|", ">", "::"])
def test_category_separator_can_be_set(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(f"id,image,category\n1,a,Home;Garden {separator} Pans{separator}Iron\n2,b,Pots\n")

    rows = rows_of(path, "text_guided", category_separator=separator)

    assert [row["category"] for row in rows] == [["Home;Garden", "Pans", "Iron"], ["Pots"]]


def test_flat_categories_with_a_separator_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("id,image,category\n1,a,Shoes\n2,b,Home>Pans\n")

    rows, [notice] = read(path, "text_guided")

    assert [row["category"] for row in rows] == [["Shoes"], ["Home>Pans"]]
    assert notice.kept
    assert "every category of" in notice.reason
    assert "such as 'Home>Pans': if these are paths, add --category-separator '>'" in notice.reason


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([7, None, -1]), ["7", None, "-1"]),
        (pa.array([2**63], pa.uint64()), ["9223372036854775808"]),
        (pa.array([42.0, None, 1.5, float("nan"), 1e300]), ["42", None, "1.5", None, "1e+300"]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.array(["x", "", "x"]).dictionary_encode(), ["x", None, "x"]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array([True]), ["true"]),
        (pa.array([date(2024, 2, 3)]), ["2024-02-03"]),
        (pa.array([b"x"]), ["x"]),
    ],
)
def test_text_columns_of_parquet_are_text(tmp_path: Path, column: pa.Array, texts: list[str | None]) -> None:
    table = pa.table({"image": ["a.jpg"] * len(column), "product_id": column, "id": column})
    pq.write_table(table, tmp_path / "shop.parquet")

    rows, rejects = read(tmp_path / "shop.parquet", "text_guided")

    assert [row["product_id"] for row in rows] == texts
    assert rejects == []


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("product_id", pa.array([["x"]]), r"the column 'product_id' is list<\w+: string>, not a text: convert it"),
        ("product_id", pa.array([b"\xff"]), "the column 'product_id' is binary, which is not text"),
        ("category", pa.array([[["x"]]]), "the column 'category' is list<.*>, not a list of names"),
        ("image", pa.array([{"url": "x"}]), r"the column 'image' is struct<url: string>, not a picture: convert it to"),
    ],
)
def test_columns_of_other_types_are_named(tmp_path: Path, name: str, column: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"id": ["1"], "image": ["a.jpg"]} | {name: column}), tmp_path / "shop.parquet")

    with pytest.raises(SchemaError, match=message):
        read(tmp_path / "shop.parquet", "text_guided")


def test_picture_struct_is_bytes_or_path(tmp_path: Path) -> None:
    pictures = [{"bytes": b"PNG", "path": "a.png"}, {"bytes": None, "path": "sub/b.png"}, None]
    pq.write_table(pa.table({"id": ["1", "2", "3"], "image": pictures}), tmp_path / "hf.parquet")

    rows = rows_of(tmp_path / "hf.parquet", "contour")

    assert [row.get("image") for row in rows] == [b"PNG", f"{tmp_path}/sub/b.png", None]


def test_attributes_are_kept_as_text_or_number(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("id,image,brand,price\n1,a,007,12.50\n2,b,, \n")

    rows = rows_of(path, "text_guided", attributes={"brand": "", "price": NUMBER})

    assert [(row.get("brand"), row.get("price")) for row in rows] == [("007", 12.5), (None, None)]
    path.write_text("id,image,brand\n1,a,B&B\n")
    with pytest.raises(SchemaError, match="the column 'brand' has a value that is not a number"):
        read(path, "text_guided", attributes={"brand": NUMBER})


def test_columns_of_numbers_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("id,image,score\n1,a,4.5\n2,b,\n")

    rows = rows_of(tmp_path / "photos.csv", "aesthetic_emotion")

    assert [row.get("score") for row in rows] == [4.5, None]


def test_other_cells_are_split_at_semicolons(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("id,image,category\n1,a,home; pans\n2,b,pots\n")

    assert [row["category"] for row in rows_of(tmp_path / "shop.csv", "text_guided")] == [["home", "pans"], ["pots"]]
