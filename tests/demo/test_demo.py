"""The demo with few epochs: a sample of its products here, all of them by its command in `make soak`."""

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from galleria.demo.emotions import write_emotions
from galleria.demo.families import TEXT_GUIDED, DemoFamily, select_families
from galleria.demo.products import drawn_products, write_products
from galleria.demo.run import run_demo
from galleria.errors import ConfigurationError
from galleria.learn.family import family_names
from tests.ports import free_port
from tests.soak import SOAK

Demo = tuple[dict[str, Any], str, Path]
FAMILIES = ("text_guided", "aesthetic_emotion")
"""One of every kind that is served."""
FULL = SOAK > 1
STRIDE = 6
"""A sample has every sixth product."""
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def sampled(family: DemoFamily, write: Callable[[Iterator[dict[str, Any]], Path], int]) -> DemoFamily:
    return dataclasses.replace(family, prepare=lambda path: write(islice(drawn_products(), 0, None, STRIDE), path))


def run_sample(folder: Path, report: Path) -> str:
    from ray import serve

    [emotions] = select_families(["aesthetic_emotion"], all_families=False)
    families, search = [sampled(emotions, write_emotions)], sampled(TEXT_GUIDED, write_products)
    shown = io.StringIO()
    try:
        with run_demo(folder, report, free_port(), Console(file=shown), families, epochs=2, search=search):
            return shown.getvalue()
    finally:
        serve.shutdown()  # else the next service on this Ray gets this one's port


def run_command(folder: Path, report: Path) -> str:
    command = [sys.executable, "-m", "jobs.demo", "--check", "--family", "aesthetic_emotion", "--epochs", "1"]
    command += ["--out", str(folder), "--report", str(report), "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2700, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(ray_instance: None, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Its report, what it printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    report = folder / "demo-report.json"
    shown = (run_command if FULL else run_sample)(folder / "demo", report)
    return json.loads(report.read_text()), shown, folder


def test_text_guided_beats_frozen_backbone(demo: Demo) -> None:
    report, _, _ = demo
    scores = report["families"]["text_guided"]
    for source in ("twemoji", "openmoji"):
        trained, frozen = scores["trained"][source]["R@1"], scores["frozen"][source]["R@1"]
        assert trained["value"] > frozen["high" if FULL else "value"], source  # a sample has wide intervals
        assert trained["low"] <= trained["value"] <= trained["high"]
        assert report["queries"][source] == trained["count"] == (156 if FULL else 30)
    assert scores["trained"]["text"]["R@5"]["value"] > (0.1 if FULL else 0.05)  # chance: 5 of the gallery
    assert report["gallery"] == (1598 if FULL else 267)


def test_report_has_scores_and_checks(demo: Demo) -> None:
    report, shown, _ = demo
    assert sorted(report["families"]) == sorted(report["bundles"]) == sorted(FAMILIES)
    for family, models in report["families"].items():
        assert models["trained"], family
        assert models["frozen"], family
        assert any(check.startswith(f"{family}: ") for check in report["checks"]), family
    assert all(report["checks"].values())
    assert "served responses verified" in shown
    assert 0 < sum(report["seconds"].values()) < report["duration_s"]


def test_select_families_keeps_dependency_order() -> None:
    assert select_families([], all_families=False) == []
    assert (
        sorted(["text_guided", *(family.name for family in select_families([], all_families=True))]) == family_names()
    )
    selected = select_families(["garment_gender", "contour"], all_families=False)
    assert [family.name for family in selected] == ["contour", "garment_gender"]
    with pytest.raises(ConfigurationError, match="'shoes' is not one of category_tree"):
        select_families(["shoes"], all_families=False)
    with pytest.raises(ConfigurationError, match="add --family contour"):
        select_families(["garment_gender"], all_families=False)


def test_report_page_shows_families(demo: Demo) -> None:
    report, _, folder = demo
    page = (folder / "demo-report.html").read_text()
    assert all(f"<h2>{family}<small>" in page for family in report["families"])
