"""A folder of pictures becomes parquet that a data set accepts; lost files are reported."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.cli import main
from galleria.errors import ConfigurationError, DataError
from galleria.learn.family import load_family
from galleria.pipelines.convert import convert
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.readers import ReadOptions
from tests.drawings import drawing

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_instance")]
FAMILY = load_family("text_guided")


def test_csv_becomes_rows_with_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["sku,file,department,kind,words"]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(drawing(number))
        lines.append(f"{number},{number}.png,clothes,kind {number % 2},thing {number}")
    lines.append("20,lost.png,clothes,kind 0,lost")
    (tmp_path / "products.csv").write_text("\n".join(lines))

    with pytest.raises(SystemExit, match="0"):
        main(
            ["convert", "text_guided", str(tmp_path / "products.csv"), "--out", str(tmp_path / "made" / "rows")]
            + [part for pair in ("id=sku", "image=file", "product_id=sku", "text=words") for part in ("--column", pair)]
            + ["--level", "department", "--level", "kind"]
        )

    data = ProductDataset(Source(str(tmp_path / "made" / "rows"), category_depth=2), FAMILY)
    table = pq.read_table(tmp_path / "made" / "rows").sort_by("id")
    assert sum(data.counts.values()) == 20
    assert data.rejects == []
    assert table["image"].to_pylist() == [drawing(int(name)) for name in table["id"].to_pylist()]
    assert table["category"].to_pylist()[0] == ["clothes", "kind 0"]
    [reject] = map(json.loads, (tmp_path / "made" / "rejects.jsonl").read_text().splitlines())
    assert reject["id"] == "20"
    assert "lost.png cannot be read" in reject["reason"]
    assert "20 rows in" in capsys.readouterr().out


def test_source_of_lost_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,image,product_id\n1,lost.png,1\n2,gone.png,2\n")

    with pytest.raises(DataError, match=r"no file of .* can be read; the first reason: the file .*lost\.png"):
        convert(str(tmp_path / "products.csv"), FAMILY, ReadOptions(), tmp_path / "rows")


def test_pictures_of_parquet_are_kept(tmp_path: Path) -> None:
    table = {"id": ["a"], "image": [drawing(3)], "product_id": ["p"], "department": ["clothes"]}
    pq.write_table(pa.table(table), tmp_path / "products.parquet")

    count, rejects = convert(
        str(tmp_path / "products.parquet"), FAMILY, ReadOptions(levels=["department"]), tmp_path / "rows"
    )

    [row] = pq.read_table(tmp_path / "rows").to_pylist()
    assert (count, rejects) == (1, [])
    assert (row["image"], row["category"]) == (drawing(3), ["clothes"])


def test_existing_output_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists already: remove it"):
        convert("anything.csv", FAMILY, ReadOptions(), tmp_path)
