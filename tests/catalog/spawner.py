"""Starts writers that a test kills. Each prints its requests and their acknowledgements, one JSON object a line."""

import json
import os
import random
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401  imported once, since it is slow; Lance is not, since its threads do not survive a fork
import pyarrow.compute
import pyarrow.dataset  # noqa: F401

IDS = [f"item {number}" for number in range(12)]


def item(name: str, title: str) -> dict[str, Any]:
    """Return an item whose fields all follow from its title."""
    return {"id": name, "title": title, "image": title.encode() * 20, "attributes": {"title": title}}


def vector(title: str) -> np.ndarray:
    drawn = np.random.default_rng(list(title.encode())).standard_normal(3).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def report(**line: Any) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def write(path: str, seed: int) -> None:
    """Send requests to a writer, some at a time, until killed."""
    from galleria.catalog.table import ProductTable
    from galleria.catalog.writer import CatalogWriter

    chance = random.Random(seed)
    writer = CatalogWriter(path)
    number = 0
    while True:
        waiting = []
        for _ in range(chance.randint(1, 4)):
            number += 1
            names = chance.sample(IDS, 2)
            title = None if chance.random() < 0.3 else f"{seed}-{number}"
            report(requested=number, names=names, title=title)
            if title is None:
                waiting.append((number, writer.delete(names)))
            else:
                vectors = np.stack([vector(title)] * 2)
                waiting.append((number, writer.put([item(name, title) for name in names], vectors)))
        for request, result in waiting:
            result.result()
            report(acknowledged=request)
        if chance.random() < 0.1:
            ProductTable(path).compact(timedelta(0))


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            write(sys.argv[1], int(line))
        report(started=child)
        os.waitpid(child, 0)
        report(ended=child)
