"""The demo as a newcomer runs it, with one epoch each: one room of every kind that is served."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from galleria.demo.families import chosen_rooms
from galleria.errors import ConfigurationError
from galleria.learn.family import family_names

FAMILIES = ("text_guided", "aesthetic_emotion")
ROOMS = ("--family", "aesthetic_emotion")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Its report, what it printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    report = folder / "demo-report.json"
    command = [sys.executable, "-m", "jobs.demo", "--check", *ROOMS, "--epochs", "1", "--out", str(folder / "demo")]
    command += ["--report", str(report), "--port", "8765"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2700, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(report.read_text()), done.stdout, folder


def test_product_search_beats_the_frozen_backbone_on_unseen_products(demo: tuple[dict[str, Any], str, Path]) -> None:
    report, _, _ = demo
    room = report["rooms"]["text_guided"]
    for source in ("twemoji", "openmoji"):
        trained, frozen = room["trained"][source]["R@1"], room["frozen"][source]["R@1"]
        assert trained["value"] > frozen["high"], f"{source}: the gain is within the baseline's interval"
        assert trained["low"] <= trained["value"] <= trained["high"]
        assert report["queries"][source] == trained["count"] == 160
    assert room["trained"]["text"]["R@5"]["value"] > 0.1  # chance is 5 of 1,598
    assert report["gallery"] == 1598


def test_every_room_is_measured_beside_its_baseline_and_answers_over_http(
    demo: tuple[dict[str, Any], str, Path],
) -> None:
    report, shown, _ = demo
    assert sorted(report["rooms"]) == sorted(report["bundles"]) == sorted(FAMILIES)
    for family, models in report["rooms"].items():
        assert models["trained"], family
        assert models["frozen"], family
        assert any(check.startswith(f"{family}: ") for check in report["checks"]), family
    assert all(report["checks"].values())
    assert "served answers verified" in shown
    assert 0 < sum(report["seconds"].values()) < report["duration_s"]


def test_rooms_are_chosen_by_name_in_the_order_in_which_they_build_on_each_other() -> None:
    assert chosen_rooms([], every=False) == []
    assert sorted(["text_guided", *(room.family for room in chosen_rooms([], every=True))]) == family_names()
    chosen = chosen_rooms(["garment_gender", "contour"], every=False)
    assert [room.family for room in chosen] == ["contour", "garment_gender"]
    with pytest.raises(ConfigurationError, match="'shoes' is none of category_tree"):
        chosen_rooms(["shoes"], every=False)
    with pytest.raises(ConfigurationError, match="add --family contour"):
        chosen_rooms(["garment_gender"], every=False)


def test_the_report_is_a_page_too(demo: tuple[dict[str, Any], str, Path]) -> None:
    report, _, folder = demo
    page = (folder / "demo-report.html").read_text()
    assert all(f"<h2>{family}<small>" in page for family in report["rooms"])
