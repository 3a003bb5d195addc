"""The demo as a newcomer runs it: all of it, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_beats_the_frozen_backbone_on_unseen_products_and_serves_its_answers(tmp_path: Path) -> None:
    report = tmp_path / "demo-report.json"
    command = [sys.executable, "-m", "jobs.demo", "--check", "--out", str(tmp_path / "demo"), "--report", str(report)]
    command += ["--port", "8765"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(report.read_text())
    room = found["rooms"]["text_guided"]
    for source in ("twemoji", "openmoji"):
        trained, frozen = room["trained"][source]["R@1"], room["frozen"][source]["R@1"]
        assert trained["value"] > frozen["high"], f"{source}: the gain is within the baseline's interval"
        assert trained["low"] <= trained["value"] <= trained["high"]
        assert found["queries"][source] == trained["count"] == 160
    assert room["trained"]["text"]["R@5"]["value"] > 0.1  # chance is 5 of 1,598
    assert found["gallery"] == 1598
    assert found["duration_s"] > 0
    assert all(found["checks"].values())
    assert len(found["checks"]) == 3
    assert "served answers verified" in done.stdout
