"""A catalogue that is written to while it answers: how soon a write is found, and what a new index costs searches.

Another process writes single items, each acknowledged before the next, and then builds the index anew with low
priority, as the service's writer does. This process follows and searches all the while. "fresh" is the time from the
acknowledgement until a search in this process can find the item; `swap_p99_over_steady` the 99th percentile of search
latency while the index is built and goes in, over that of as many seconds without.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.results import print_results

BUNDLE = "0" * 64
QUERIES = 200


def main(
    count: Annotated[int, typer.Option(min=100)] = 50_000,
    dimension: Annotated[int, typer.Option(min=2)] = 128,
    writes: Annotated[int, typer.Option(min=1, help="Writes that are timed.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Indexes that are built.")] = 3,
) -> None:
    """Measure, and print one JSON object."""
    from galleria.catalog.live import LiveCatalog

    with tempfile.TemporaryDirectory() as scratch:
        _fill(Path(scratch), count, dimension)
        catalog = LiveCatalog(Path(scratch) / "table", Path(scratch) / "index", BUNDLE)
        catalog.follow()
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.live_writer", scratch, str(writes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        fresh = []
        for line in child.stdout:
            told = json.loads(line)
            if told == "written":
                break
            assert catalog.wait_for(told["version"], 60) is not None
            fresh.append(1000 * (time.time() - told["acknowledged"]))
        rows: list[dict[str, Any]] = [{"kind": "fresh", **_spread(fresh)}]
        queries = _unit(np.random.default_rng(1), QUERIES, dimension)
        for number in range(rounds):
            begun = time.perf_counter()
            child.stdin.write("build\n")
            child.stdin.flush()
            build = catalog.state.build.folder
            swap = _latencies(catalog, queries, lambda build=build: catalog.state.build.folder != build)
            seconds = time.perf_counter() - begun
            end = time.perf_counter() + min(seconds, 60)
            steady = _latencies(catalog, queries, lambda end=end: time.perf_counter() > end)
            rows.append({"kind": "swap", "round": number, "seconds": seconds, **_spread(swap)})
            rows.append({"kind": "steady", "round": number, **_spread(steady)})
        child.stdin.close()
        child.wait()
    p99 = {(row["kind"], row.get("round")): row["p99_ms"] for row in rows}
    ratios = [p99["swap", number] / p99["steady", number] for number in range(rounds)]
    print_results("live", rows, {"swap_p99_over_steady": ratios})


def _fill(folder: Path, count: int, dimension: int) -> None:
    from galleria.catalog.items import table_schema, upserts
    from galleria.catalog.table import ProductTable
    from galleria.index.kinds import Plan
    from galleria.pipelines.build_index import build_index

    vectors = _unit(np.random.default_rng(0), count, dimension)
    table = ProductTable.create(folder / "table", table_schema(dimension, BUNDLE))
    table = table.append(upserts([{"id": str(place)} for place in range(count)], vectors, BUNDLE))
    build_index(table, folder / "index", Plan(target_recall=0.95))


def _unit(generator: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    vectors = generator.standard_normal((count, dimension)).astype(np.float32)
    found: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def _latencies(catalog: Any, queries: NDArray[np.float32], ended: Any) -> list[float]:
    """Milliseconds of searches, one after the other with short pauses, until `ended()`."""
    taken = []
    while not ended():
        for query in queries:
            started = time.perf_counter()
            catalog.search(query[None], 10)
            taken.append(1000 * (time.perf_counter() - started))
            time.sleep(0.001)
    return taken


def _spread(milliseconds: list[float]) -> dict[str, float]:
    return {
        "count": len(milliseconds),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
    }


if __name__ == "__main__":
    typer.run(main)
