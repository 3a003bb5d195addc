"""The demo's garments: figures of 77 roles, three drawings each, and no role in two splits."""

import collections
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from galleria.demo.garments import GARMENTS, prepare_garments, target_of
from galleria.learn.family import load_family
from galleria.pipelines.datasets import ProductDataset, Source

GENDERS = ("female", "male")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "garments.parquet"
    assert prepare_garments(path) == 920
    return path


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    return pq.read_table(data).to_pylist()


def test_every_vendor_draws_each_figure_once(rows: list[dict[str, Any]]) -> None:
    counts = collections.Counter((row["source"], *row["target"]) for row in rows)
    vendors = ("noto", "twemoji", "openmoji")
    assert counts == {
        (vendor, target): {"female": 466, "male": 454}[target] for vendor in vendors for target in GENDERS
    }
    assert len({row["id"] for row in rows}) == len(rows)


def test_pictures_are_in_one_split(rows: list[dict[str, Any]]) -> None:
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["image"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())


def test_roles_are_in_one_split(rows: list[dict[str, Any]]) -> None:
    cooks = {row["split"] for row in rows if row["id"].split(":")[1].startswith(("woman-cook", "man-cook"))}
    singers = {row["split"] for row in rows if row["id"].split(":")[1].startswith(("woman-singer", "man-singer"))}
    assert len(cooks) == len(singers) == 1


def test_every_split_has_both_targets(rows: list[dict[str, Any]]) -> None:
    for split, fraction in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        targets = collections.Counter(row["target"][0] for row in rows if row["split"] == split)
        assert abs(sum(targets.values()) / len(rows) - fraction) < 0.07
        assert abs(targets["female"] / sum(targets.values()) - 0.5) < 0.1


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("woman cook: dark skin tone", "female"),
        ("man: beard", "male"),
        ("princess", "female"),
        ("merman: light skin tone", "male"),
        ("person cook", None),
        ("woman and man holding hands", None),
        ("men holding hands", None),
        ("kiss: woman, man", None),
        ("mango", None),
    ],
)
def test_target_is_in_the_name(name: str, target: str | None) -> None:
    assert target_of(name) == target


def test_file_is_reproducible(data: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    prepare_garments(again)
    assert again.read_bytes() == data.read_bytes()


def test_rows_are_valid_input(data: Path) -> None:
    dataset = ProductDataset(Source(str(data)), load_family("garment_gender"))
    assert dataset.rejects == []
    assert dataset.ignored == []
    assert pq.read_schema(data).names == GARMENTS.names
