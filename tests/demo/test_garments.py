"""The demo's garments: figures of 77 roles, three drawings each, and no role on two sides."""

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


def test_every_figure_is_drawn_once_by_each_house(rows: list[dict[str, Any]]) -> None:
    found = collections.Counter((row["source"], *row["target"]) for row in rows)
    houses = ("noto", "twemoji", "openmoji")
    assert found == {(house, target): {"female": 466, "male": 454}[target] for house in houses for target in GENDERS}
    assert len({row["id"] for row in rows}) == len(rows)


def test_no_picture_stands_under_two_names(rows: list[dict[str, Any]]) -> None:
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["image"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_a_role_is_on_one_side_whoever_has_it(rows: list[dict[str, Any]]) -> None:
    cooks = {row["split"] for row in rows if row["id"].split(":")[1].startswith(("woman-cook", "man-cook"))}
    singers = {row["split"] for row in rows if row["id"].split(":")[1].startswith(("woman-singer", "man-singer"))}
    assert len(cooks) == len(singers) == 1


def test_both_targets_are_in_every_split(rows: list[dict[str, Any]]) -> None:
    for split, share in {"train": 0.6, "validation": 0.2, "test": 0.2}.items():
        targets = collections.Counter(row["target"][0] for row in rows if row["split"] == split)
        assert abs(sum(targets.values()) / len(rows) - share) < 0.07
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
def test_a_target_is_the_word_in_the_name(name: str, target: str | None) -> None:
    assert target_of(name) == target


def test_the_same_packages_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    prepare_garments(again)
    assert again.read_bytes() == data.read_bytes()


def test_the_rows_pass_the_door(data: Path) -> None:
    door = ProductDataset(Source(str(data)), load_family("garment_gender"))
    assert door.rejects == []
    assert door.ignored == []
    assert pq.read_schema(data).names == GARMENTS.names
