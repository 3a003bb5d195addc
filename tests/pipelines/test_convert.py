"""A folder of pictures becomes parquet that a data set accepts; lost files are reported."""

import io
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.cli import main
from galleria.errors import ConfigurationError, DataError
from galleria.learn.family import load_family
from galleria.media.fetch import FetchOptions
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


def test_rejected_lines_and_notes_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips.csv").write_text(
        "id;datei;category\n001;a.mp4;Sport>Sprünge\n1;b.mp4\n2;c.mp4;Sport\n", encoding="cp1252"
    )

    out = tmp_path / "made" / "rows"
    with pytest.raises(SystemExit, match="0"):
        main(["convert", "video_event", str(tmp_path / "clips.csv"), "--column", "video=datei", "--out", str(out)])

    rows = pq.read_table(out).to_pylist()
    assert [(row["id"], row["video"]) for row in rows] == [
        ("001", str(tmp_path / "a.mp4")),
        ("2", str(tmp_path / "c.mp4")),
    ]
    rejects = [json.loads(line) for line in (tmp_path / "made" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject.get("line"), reject["kept"]) for reject in rejects] == [(None, True), (None, True), (3, False)]
    shown = capsys.readouterr().out.replace("\n", "")
    assert "it was read as cp1252" in shown
    assert "add --category-separator '>'" in shown
    assert "2 rows in" in shown
    assert "1 rows rejected" in shown


def test_failed_conversion_leaves_no_output(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("id,video\n1,a.mp4\n" * 2 + '"\n')
    pq.write_table(pa.table({"id": ["1"], "image": ["a"], "product_id": [["a"]]}), tmp_path / "bad.parquet")

    with pytest.raises(DataError, match="'product_id' is list"):
        convert(str(tmp_path / "bad.parquet"), FAMILY, ReadOptions(), tmp_path / "out" / "rows")

    assert not list(tmp_path.rglob("*rows*"))


def test_picture_bytes_are_never_shown(tmp_path: Path) -> None:
    pictures = [
        {"bytes": drawing(1), "path": "a.png"},
        {"bytes": None, "path": "lost.png"},
        {"bytes": None, "path": None},
    ]
    table = {"id": ["a", "b", "c"], "image": pictures, "product_id": ["p", "q", "r"]}
    pq.write_table(pa.table(table), tmp_path / "hf.parquet")

    count, rejects = convert(str(tmp_path / "hf.parquet"), FAMILY, ReadOptions(), tmp_path / "rows")

    rows = pq.read_table(tmp_path / "rows").to_pylist()
    assert (count, [row["image"] for row in rows]) == (2, [drawing(1), None])
    [reject] = rejects
    assert reject.reason.startswith(f"the file {tmp_path}/lost.png cannot be read")
    assert len((tmp_path / "rejects.jsonl").read_text()) < 400


def test_pictures_of_a_feed_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.png").write_bytes(drawing(1))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "feed.csv").write_text(f"id,image_link,additional_image_link\n1,{url}/a.png,{url}/lost.png\n")
        fetch = FetchOptions(cache=str(tmp_path / "cache"), allow_private=True)
        feed = ReadOptions(feed="google")

        count, rejects = convert(str(tmp_path / "feed.csv"), FAMILY, feed, tmp_path / "rows", fetch)
        with pytest.raises(DataError, match=r"no file of .* can be read; the first reason: .*private address 127"):
            convert(str(tmp_path / "feed.csv"), FAMILY, feed, tmp_path / "other")
        server.shutdown()
        thread.join()

    [row] = pq.read_table(tmp_path / "rows").to_pylist()
    assert (count, row["id"], row["image"]) == (1, "1", drawing(1))
    assert [(reject.id, "answers HTTP 404" in reject.reason) for reject in rejects] == [("1/2", True)]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_boxes_are_cut_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawing(1))
    (tmp_path / "df.csv").write_text(
        "label,path,split,is_query,is_gallery,x_1,x_2,y_1,y_2\n"
        "p,a.png,train,,,2,12,3,8\nq,a.png,train,,,,,,\nr,a.png,train,,,900,950,1,2\n"
    )

    count, rejects = convert(str(tmp_path / "df.csv"), FAMILY, ReadOptions(), tmp_path / "rows")

    rows = {row["product_id"]: row for row in pq.read_table(tmp_path / "rows").to_pylist()}
    assert count == 2
    assert Image.open(io.BytesIO(rows["p"]["image"])).size == (10, 5)
    assert rows["q"]["image"] == drawing(1)
    assert "crop" not in rows["p"]
    [reject] = rejects
    assert "holds no pixel" in reject.reason
