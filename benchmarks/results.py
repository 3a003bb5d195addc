"""The one JSON object that every benchmark prints."""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PACKAGES = ("ray", "torch", "timm", "transformers", "faiss-cpu", "pylance", "av", "numpy")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated measurements."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}


def print_results(benchmark: str, rows: Sequence[Mapping[str, Any]], ratios: Mapping[str, Sequence[float]]) -> None:
    """Print the results; each ratio is given as its value in every round."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES} | {"cores": os.cpu_count()}
    result = {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
        "rows": list(rows),
        "ratios": {name: spread(values) for name, values in ratios.items()},
    }
    print(json.dumps(result, indent=1))
