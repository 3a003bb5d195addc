"""What all benchmarks share: contestants take turns, ratios are taken per round, and the result is one JSON object."""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

PACKAGES = ("ray", "torch", "timm", "transformers", "faiss-cpu", "pylance", "av", "numpy")

Row = dict[str, Any]
"""One measurement; those of contestants have "contestant" and "round"."""


def interleave(contestants: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, contestant), every other round in reverse order.

    The machine's own changes of speed so affect all contestants alike.
    """
    names = list(contestants)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def ratio(
    rows: Iterable[Mapping[str, Any]],
    value: str,
    others: Sequence[str],
    best: Callable[[Iterable[float]], float] = min,
    own: str = "own",
) -> list[float]:
    """Return one contestant's value over the best of the others in each round.

    Args:
        rows: one for each contestant and round.
        value: name of the value.
        others: contestants to compare with; those without a row in every round are left out.
        best: `min` where less is better, `max` where more is.
        own: contestant that is compared.

    Returns:
        One ratio for each round; none where no other contestant is left.
    """
    values = {(row["contestant"], row["round"]): row[value] for row in rows if value in row}
    rounds = sorted(number for contestant, number in values if contestant == own)
    complete = [other for other in others if all((other, number) in values for number in rounds)]
    if not complete:
        return []
    return [values[own, number] / best(values[other, number] for other in complete) for number in rounds]


def matching(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """Return the rows that have these values."""
    return [row for row in rows if fields.items() <= row.items()]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and range of repeated measurements."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}


def print_results(benchmark: str, rows: Sequence[Mapping[str, Any]], ratios: Mapping[str, Sequence[float]]) -> None:
    """Print the result as JSON: every row, and the spread of each ratio that has values."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES} | {"cores": os.cpu_count()}
    result = {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
        "rows": list(rows),
        "ratios": {name: spread(values) for name, values in ratios.items() if values},
    }
    print(json.dumps(result, indent=1))
