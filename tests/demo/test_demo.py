"""The demo as a newcomer runs it, with one epoch each: one family of every kind that is served."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from galleria.demo.families import select_families
from galleria.errors import ConfigurationError
from galleria.learn.family import family_names
from tests.ports import free_port

FAMILIES = ("text_guided", "aesthetic_emotion")
OPTIONS = ("--family", "aesthetic_emotion")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Its report, what it printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    report = folder / "demo-report.json"
    command = [sys.executable, "-m", "jobs.demo", "--check", *OPTIONS, "--epochs", "1", "--out", str(folder / "demo")]
    command += ["--report", str(report), "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2700, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(report.read_text()), done.stdout, folder


def test_text_guided_beats_frozen_backbone(demo: tuple[dict[str, Any], str, Path]) -> None:
    report, _, _ = demo
    scores = report["families"]["text_guided"]
    for source in ("twemoji", "openmoji"):
        trained, frozen = scores["trained"][source]["R@1"], scores["frozen"][source]["R@1"]
        assert trained["value"] > frozen["high"], f"{source}: the gain is within the baseline's interval"
        assert trained["low"] <= trained["value"] <= trained["high"]
        assert report["queries"][source] == trained["count"] == 160
    assert scores["trained"]["text"]["R@5"]["value"] > 0.1  # chance is 5 of 1,598
    assert report["gallery"] == 1598


def test_report_has_scores_and_checks(
    demo: tuple[dict[str, Any], str, Path],
) -> None:
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


def test_report_page_shows_families(demo: tuple[dict[str, Any], str, Path]) -> None:
    report, _, folder = demo
    page = (folder / "demo-report.html").read_text()
    assert all(f"<h2>{family}<small>" in page for family in report["families"])
