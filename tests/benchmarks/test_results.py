"""Turns of contestants, and ratios in each round."""

import json

import pytest

from benchmarks.results import interleave, matching, print_results, ratio

ROWS = [
    {"contestant": "own", "round": 0, "p50_ms": 4.0},
    {"contestant": "own", "round": 1, "p50_ms": 3.0},
    {"contestant": "slow", "round": 0, "p50_ms": 8.0},
    {"contestant": "slow", "round": 1, "p50_ms": 12.0},
    {"contestant": "fast", "round": 0, "p50_ms": 2.0},
    {"contestant": "fast", "round": 1, "p50_ms": 6.0},
    {"contestant": "failed", "round": 0, "p50_ms": 1.0},
    {"contestant": "failed", "round": 1, "error": "out of memory"},
]


def test_interleave_reverses_every_other_round() -> None:
    assert list(interleave(["a", "b"], 3)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_ratio_is_over_the_best_of_a_round() -> None:
    assert ratio(ROWS, "p50_ms", ["slow", "fast"]) == [2.0, 0.5]
    assert ratio(ROWS, "p50_ms", ["slow", "fast"], max) == [0.5, 0.25]
    assert ratio(ROWS, "p50_ms", ["own"], own="fast") == [0.5, 2.0]


def test_ratio_skips_incomplete_contestants() -> None:
    assert ratio(ROWS, "p50_ms", ["failed", "slow"]) == [0.5, 0.25]
    assert ratio(ROWS, "p50_ms", ["failed", "unknown"]) == []


def test_matching_selects_rows_by_fields() -> None:
    assert matching(ROWS, contestant="fast", round=1) == [ROWS[5]]
    assert matching(ROWS, unknown=1) == []


def test_results_have_the_spread_of_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    print_results("name", ROWS[:1], {"measured": [1.0, 4.0, 2.0], "missing": []})

    result = json.loads(capsys.readouterr().out)

    assert result["benchmark"] == "name"
    assert result["rows"] == ROWS[:1]
    assert result["ratios"] == {"measured": {"median": 2.0, "low": 1.0, "high": 4.0}}
