"""A run's report as one HTML page that needs nothing beside itself."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

UNIT = 100
"""Scores are shown in percent."""


def report_page(report: Mapping[str, Any]) -> str:
    """The page of a report of `galleria demo`: every family's scores next to its baseline, with their intervals.

    Args:
        report: contents of `demo-report.json`.
    """
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources.files("galleria.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    families = {family: _rows(models) for family, models in report["families"].items()}
    return template.render(report=report, families=families)


def _rows(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row a score that the trained model has: where its bar and its baseline's begin and end, in percent."""
    rows = []
    for group, metrics in models["trained"].items():
        for metric, score in metrics.items():
            other = models["frozen"].get(group, {}).get(metric)
            name = metric if group == "all" else f"{group} {metric}"
            rows.append({"name": name, "trained": _percent(score), "frozen": _percent(other) if other else None})
    return rows


def _percent(score: Mapping[str, Any]) -> dict[str, float]:
    return {
        **{name: UNIT * (score[name] or 0.0) for name in ("value", "low", "high")},
        "count": score["count"],
    }
