"""From a bundle to scores, a product table, an index and hits, through Ray Data."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galleria.catalog.items import table_schema
from galleria.catalog.table import ProductTable
from galleria.demo.products import PRODUCTS
from galleria.errors import ConfigurationError, DataError, EmptyDatasetError, SchemaError
from galleria.index.filters import read_filter
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from galleria.media.limits import LIMITS
from galleria.pipelines.build_index import build_index
from galleria.pipelines.datasets import Source
from galleria.pipelines.embed import ROWS_PER_COMMIT, embed
from galleria.pipelines.evaluate import evaluate
from galleria.pipelines.search import search
from tests.pipelines.conftest import Write

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_instance")]


def direct(bundle: Bundle, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a batch of rows, and the model's outputs for it, without Ray."""
    batch = stack([bundle.family.example(row, bundle.context, None) for row in rows])
    return dict(batch), bundle.task().predict(batch)


@pytest.fixture(scope="module")
def embedded(
    bundle: Bundle, clean_data: str, ray_instance: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ProductTable, Path]:
    out = tmp_path_factory.mktemp("catalogue")
    table, rejects = embed(bundle, Source(clean_data), out / "table.lance")
    assert rejects == []
    build_index(table, out / "index")
    return table, out


@pytest.mark.slow
def test_scores_equal_those_of_the_family(bundle: Bundle, clean_data: str, clean_rows: list[dict[str, Any]]) -> None:
    scores = evaluate(bundle, Source(clean_data), "test")
    rows = [row for row in clean_rows if row["role"] == "gallery" or row["split"] == "test"]
    batch, outputs = direct(bundle, rows)
    batch["evaluated"] = torch.tensor([row["split"] == "test" for row in rows])
    expected = bundle.family.evaluate([(batch, outputs)], bundle.context.labels)
    assert scores == expected
    assert scores["R@1"].count == 12


@pytest.mark.slow
def test_evaluate_writes_rejected_rows(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [dict(row) for row in clean_rows]
    rows[-1]["image"] = b"GIF89a"
    scores = evaluate(bundle, Source(write(rows)), "test", tmp_path / "out")
    assert scores["R@1"].count == 11
    [line] = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == rows[-1]["id"]


@pytest.mark.slow
def test_evaluate_scores_rows_without_split(bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]]) -> None:
    rows = [row | {"split": None} for row in clean_rows]
    scores = evaluate(bundle, Source(write(rows)), "train")
    assert scores["R@1"].count == 72
    assert 0 <= scores["R@1"].value <= 1


def test_evaluate_rejects_empty_split(bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]]) -> None:
    rows = [row for row in clean_rows if row["split"] == "train"]
    with pytest.raises(EmptyDatasetError, match="'test'"):
        evaluate(bundle, Source(write(rows)), "test")


def test_table_has_vectors_of_the_gallery(
    bundle: Bundle, embedded: tuple[ProductTable, Path], clean_rows: list[dict[str, Any]]
) -> None:
    table, _ = embedded
    gallery = [row for row in clean_rows if row["role"] == "gallery"]
    ids, vectors = table.vectors()
    order = [ids.tolist().index(row["id"]) for row in gallery]
    assert len(ids) == len(gallery)
    _, outputs = direct(bundle, gallery)
    np.testing.assert_allclose(vectors[order], outputs["embedding"].numpy(), atol=1e-5)
    item = table.item(gallery[1]["id"], ("title", "category", "image"))
    assert item is not None
    assert (item["title"], item["category"], item["image"]) == ("Thing 1", ["things", "odd"], gallery[1]["image"])
    assert table.bundle_hash == bundle.hash


@pytest.mark.slow
def test_embed_again_skips_unchanged_rows(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    gallery = [row for row in clean_rows if row["role"] == "gallery"]
    table, _ = embed(bundle, Source(write(gallery[:20])), tmp_path / "table.lance")
    build_index(table, tmp_path / "index")
    changed = [{**gallery[0], "title": "Another"}, *gallery[1:21]]
    again, _ = embed(bundle, Source(write(changed)), tmp_path / "table.lance")
    assert again.key_map().count == 21
    added = again.added(table, ("id",))
    assert added is not None
    assert sorted(added["id"].to_pylist()) == sorted([gallery[0]["id"], gallery[20]["id"]])
    same, _ = embed(bundle, Source(write(changed)), tmp_path / "table.lance")
    assert same.version == again.version
    hits = search({"image": gallery[20]["image"]}, 1, bundle.path, tmp_path / "table.lance", tmp_path / "index")
    assert hits[0]["id"] == gallery[20]["id"], "what is not in the index yet is found too"


@pytest.mark.slow
def test_embed_resumes_after_a_kill(bundle: Bundle, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    gallery = [row for row in clean_rows if row["role"] == "gallery"]
    copies = 4 * ROWS_PER_COMMIT // len(gallery)
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(copies) for row in gallery]
    data, out = tmp_path / "data.parquet", tmp_path / "table.lance"
    pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), data)
    command = [sys.executable, "-m", "jobs.embed", str(bundle.path), str(data), "--out", str(out)]
    with subprocess.Popen(command) as job:
        while job.poll() is None and not _count(out):
            time.sleep(0.001)
        job.kill()
    held = _count(out)
    assert 0 < held < len(rows), "it was killed between its first and its last commit"

    table, _ = embed(bundle, Source(str(data)), out)

    assert sorted(table.scan(("id",))["id"].to_pylist()) == sorted(row["id"] for row in rows), "none twice or missing"
    assert set(table.vectors()[0]) == {row["id"] for row in rows}


def _count(out: Path) -> int:
    try:
        return ProductTable(out).key_map().count
    except DataError:
        return 0


def test_embed_rejects_table_of_another_bundle(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    ProductTable.create(tmp_path / "table.lance", table_schema(32, "other"))
    with pytest.raises(ConfigurationError, match="holds vectors of bundle other"):
        embed(bundle, Source(write(clean_rows)), tmp_path / "table.lance")


@pytest.mark.slow
def test_search_filters_by_column(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [
        {**row, "colour": "red" if index % 4 < 2 else "blue", "price": index} for index, row in enumerate(clean_rows)
    ]
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    table, _ = embed(bundle, Source(str(path), attributes=("colour", "price")), tmp_path / "table.lance")
    build_index(table, tmp_path / "index")
    red = read_filter({"colour": "red", "price": {"$lt": 20}})
    hits = search({"image": rows[0]["image"]}, 50, bundle.path, tmp_path / "table.lance", tmp_path / "index", red)
    expected = {row["id"] for row in rows if row["role"] == "gallery" and row["colour"] == "red" and row["price"] < 20}
    assert {hit["id"] for hit in hits} == expected
    assert json.loads(hits[0]["attributes"])["colour"] == "red"
    with pytest.raises(SchemaError, match="no column 'size'"):
        embed(bundle, Source(str(path), attributes=("size",)), tmp_path / "other.lance")
    with pytest.raises(SchemaError, match="an attribute is a text or a number"):
        embed(bundle, Source(str(path), attributes=("image",)), tmp_path / "other.lance")


@pytest.mark.slow
def test_embed_keeps_integer_attributes_exact(bundle: Bundle, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Also in a column with missing values; what no filter can compare is rejected and spares the other rows."""
    rows = [dict(row) for row in clean_rows if row["role"] == "gallery"][:6]
    path = tmp_path / "data.parquet"
    rows[5]["category"] = ["things", None]
    table = pa.Table.from_pylist(rows)
    sellers = pa.array([2**53 + 1, None, 5, 2**63, 2**62 + 1, None], pa.uint64())
    prices = pa.array([1.5, float("nan"), None, 2.0, float("inf"), 0.1])
    pq.write_table(table.append_column("seller", sellers).append_column("price", prices), path)
    source = Source(str(path), attributes=("seller", "price"))
    written, rejects = embed(bundle, source, tmp_path / "table.lance")
    attributes = {
        row["id"]: json.loads(row["attributes"]) if row["attributes"] else {}
        for batch in written.items(("id", "attributes"))
        for row in batch.to_pylist()
    }
    ids = [row["id"] for row in rows]
    assert attributes == {
        ids[0]: {"seller": 2**53 + 1, "price": 1.5},
        ids[1]: {},
        ids[2]: {"seller": 5},
    }
    reasons = {reject.id: reject.reason for reject in rejects if not reject.kept}
    assert reasons.keys() == {ids[3], ids[4], ids[5]}
    assert "category is ['things', None]" in reasons[ids[5]]
    assert "attribute 'seller' is 9223372036854775808" in reasons[ids[3]]
    assert "attribute 'price' is inf" in reasons[ids[4]]
    again, _ = embed(bundle, source, tmp_path / "table.lance")
    assert again.version == written.version, "nothing has changed"


@pytest.mark.slow
def test_embed_rejects_too_many_attributes(bundle: Bundle, clean_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Of one row, and names over the limit of all rows together; the other rows are embedded."""
    rows = [dict(row) for row in clean_rows if row["role"] == "gallery"][:19]
    names = [f"a{number}" for number in range(17 * 60)]
    for number, row in enumerate(rows[:17]):
        row.update(dict.fromkeys(names[60 * number : 60 * number + 60], 1))
    rows[17] |= dict.fromkeys(names[: LIMITS.item_attributes + 1], 1)
    columns = sorted({name for row in rows for name in row})
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), path)

    table, rejects = embed(bundle, Source(str(path), attributes=tuple(names)), tmp_path / "table.lance")

    reasons = [reject.reason for reject in rejects if not reject.kept]
    assert len(reasons) == 2
    assert any("has 65 attributes, over the limit of 64" in reason for reason in reasons)
    assert any("is a new name, and the catalogue has 960 of at most 1,000" in reason for reason in reasons)
    assert table.key_map().count == 17


@pytest.mark.slow
def test_damaged_picture_is_rejected(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [dict(row) for row in clean_rows]
    rows[0]["image"] = b"<svg/>"
    table, rejects = embed(bundle, Source(write(rows)), tmp_path / "table.lance")
    assert [reject.id for reject in rejects] == [rows[0]["id"]]
    assert table.item(rows[0]["id"]) is None
    assert table.key_map().count == sum(row["role"] == "gallery" for row in rows) - 1
    assert (tmp_path / "rejects.jsonl").exists()


@pytest.mark.slow
def test_embed_rejects_queries_alone(
    bundle: Bundle, write: Write, clean_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [row for row in clean_rows if row["role"] == "query"]
    with pytest.raises(EmptyDatasetError, match=r"no picture of .* could be embedded"):
        embed(bundle, Source(write(rows)), tmp_path / "table.lance")


def test_search_finds_the_picture_first(
    bundle: Bundle, embedded: tuple[ProductTable, Path], clean_rows: list[dict[str, Any]]
) -> None:
    table, out = embedded
    hits = search({"image": clean_rows[8]["image"]}, 5, bundle.path, Path(table.path), out / "index")
    assert hits[0]["id"] == clean_rows[8]["id"]
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_search_rejects_unreadable_query(bundle: Bundle, embedded: tuple[ProductTable, Path]) -> None:
    table, out = embedded
    with pytest.raises(DataError, match="not a picture"):
        search({"image": b"%PDF-1.7"}, 5, bundle.path, Path(table.path), out / "index")
    with pytest.raises(ConfigurationError, match="does not read sound"):
        search({"sound": b""}, 5, bundle.path, Path(table.path), out / "index")
