"""A run's report as one HTML page that needs no other file."""

from collections.abc import Mapping
from typing import Any

from galleria.report.templates import render

PERCENT = 100


def report_page(report: Mapping[str, Any]) -> str:
    """Render the report of `galleria demo`: each family's scores next to its baseline's, with their intervals.

    Args:
        report: contents of `demo-report.json`.
    """
    families = {family: _rows(models) for family, models in report["families"].items()}
    return render("page.html", report=report, families=families)


def _rows(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row for each score of the trained model: its bar and its baseline's, in percent."""
    rows = []
    for group, metrics in models["trained"].items():
        for metric, score in metrics.items():
            other = models["frozen"].get(group, {}).get(metric)
            name = metric if group == "all" else f"{group} {metric}"
            rows.append({"name": name, "trained": _percent(score), "frozen": _percent(other) if other else None})
    return rows


def _percent(score: Mapping[str, Any]) -> dict[str, float]:
    return {
        **{name: PERCENT * (score[name] or 0.0) for name in ("value", "low", "high")},
        "count": score["count"],
    }
