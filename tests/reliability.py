"""Records the results of the tests of a promise: `pytest … --reliability=docs/reliability.json`.

A test names the promise that it shows in the first line of its docstring: "I1: every picture is …".
"""

import datetime
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.soak import SEED, SOAK

SELECTIONS = {"m": "markexpr", "k": "keyword"}
PROMISE = re.compile(r"([RIS]\d{1,2}): ")


def promise_of(docstring: str | None) -> str:
    """Return the id that a test's docstring begins with, or ""."""
    match = PROMISE.match(docstring or "")
    return match[1] if match else ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, metavar="FILE", help="record the results of the promises' tests here")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        selected = [f"-{option} '{value}'" for option in "mk" if (value := getattr(config.option, SELECTIONS[option]))]
        command = " ".join(["pytest", *selected, *config.args])
        config.pluginmanager.register(Recorder(config.getoption("--reliability"), command), "reliability")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if promise := promise_of(getattr(getattr(item, "function", None), "__doc__", None)):
            item.user_properties.append(("promise", promise))


class Recorder:
    """Adds what ran to a file: one row for each promise and size, the newest.

    Args:
        file: JSON, a list of rows.
        command: that repeats the run.
    """

    def __init__(self, file: Path, command: str) -> None:
        self._file = file
        self._command = command
        self._failed: dict[str, set[str]] = defaultdict(set)
        self._run: dict[str, set[str]] = defaultdict(set)
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, promise in report.user_properties:
            if name == "promise":
                self._run[str(promise)].add(report.nodeid)
                self._seconds[str(promise)] += report.duration
                if report.failed:
                    self._failed[str(promise)].add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        rows = {(row["id"], row["size"]): row for row in self._rows()}
        size = "CI" if SOAK == 1 else f"× {SOAK}"
        for promise, run in self._run.items():
            failed = len(self._failed[promise])
            rows[promise, size] = {
                "id": promise,
                "size": size,
                "passed": failed == 0,
                "result": f"{len(run) - failed} of {len(run)} tests in {self._seconds[promise]:.0f} s",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "command": " ".join([*self._variables(), self._command]),
                "seed": SEED,
            }
        ordered = sorted(rows.values(), key=lambda row: (row["id"][0], int(row["id"][1:]), row["size"]))
        self._file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")

    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(self._file.read_text()) if self._file.exists() else []

    def _variables(self) -> list[str]:
        return [f"{name}={os.environ[name]}" for name in ("GALLERIA_SOAK", "GALLERIA_SEED") if name in os.environ]
