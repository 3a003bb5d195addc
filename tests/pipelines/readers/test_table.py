"""Tables become rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.errors import ConfigurationError, SchemaError
from galleria.pipelines.splits import split_of
from tests.pipelines.readers.files import rows_of


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
