"""A catalogue under writes: how soon they are visible to searches, what a new index costs these, and what is written.

    python -m benchmarks.live

About ten minutes on two CPU cores. Another process writes single items, each acknowledged before the next, and then
rebuilds the index with low priority, as the service's writer does. This process follows the catalogue and searches all
the while. "fresh" is the time from the acknowledgement until a search in this process can return the item;
`swap_p99_over_steady` is the 99th percentile of search latency while the index is built and swapped in, over that of
as many seconds without.

Then the other process updates random items with new pictures, one a commit, with the service's maintenance after every
hundredth. `bytes_written_over_bytes_put` is what it gave to write(2) (`wchar` of /proc/self/io: rows, manifests,
deletion vectors, compactions and indexes, also what was deleted again) over the bytes of pictures, vectors and texts.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.results import Row, print_results, ratio

if TYPE_CHECKING:
    from galleria.catalog.live import LiveCatalog

BUNDLE = "0" * 64
QUERIES = 200
MAX_STEADY_S = 60
VISIBLE_TIMEOUT_S = 60
PAUSE_S = 0.001
FILL_BATCH = 1_000


def main(
    count: Annotated[int, typer.Option(min=100, help="Vectors in the catalogue.")] = 50_000,
    dimension: Annotated[int, typer.Option(min=2, help="Length of a vector.")] = 128,
    writes: Annotated[int, typer.Option(min=1, help="Writes that are timed.")] = 200,
    rounds: Annotated[int, typer.Option(min=0, help="Indexes that are built.")] = 3,
    updates: Annotated[int, typer.Option(min=0, help="Updates whose written bytes are counted.")] = 10_000,
) -> None:
    """Measure, and print one JSON object."""
    from galleria.catalog.live import LiveCatalog

    with tempfile.TemporaryDirectory() as scratch:
        _fill(Path(scratch), count, dimension)
        catalog = LiveCatalog(Path(scratch) / "table", Path(scratch) / "index", BUNDLE)
        catalog.follow()
        with _writer(scratch, writes) as (commands, events):
            rows: list[Row] = [{"kind": "fresh", **_spread(_measure_visibility(catalog, events))}]
            queries = _unit(np.random.default_rng(1), QUERIES, dimension)
            for number in range(rounds):
                rows += _measure_swap(catalog, queries, commands, number)
            written = _measure_written_bytes(commands, events, updates)
    ratios = ratio(rows[1:], "p99_ms", ["steady"], own="swap")
    amplification = [written["bytes_written"] / written["bytes_put"]]
    print_results(
        "live", [*rows, written], {"swap_p99_over_steady": ratios, "bytes_written_over_bytes_put": amplification}
    )


@contextmanager
def _writer(scratch: str, writes: int) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run the writing process while the block lasts; yields its stdin and stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.live_writer", scratch, str(writes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process.stdin, process.stdout
    process.stdin.close()
    process.wait()


def _measure_visibility(catalog: "LiveCatalog", events: IO[str]) -> list[float]:
    """Return the milliseconds from the acknowledgement of each write until it is visible here."""
    fresh = []
    for line in events:
        event = json.loads(line)
        if event == "written":
            break
        assert catalog.wait_for(event["version"], VISIBLE_TIMEOUT_S) is not None
        fresh.append(1000 * (time.time() - event["acknowledged"]))
    return fresh


def _measure_swap(
    catalog: "LiveCatalog", queries: NDArray[np.float32], commands: IO[str], number: int
) -> tuple[Row, Row]:
    """Search while the index is rebuilt, and then as long without."""
    begun = time.perf_counter()
    commands.write("build\n")
    commands.flush()
    build = catalog.state.build.folder
    swap = _latencies(catalog, queries, lambda: catalog.state.build.folder != build)
    seconds = time.perf_counter() - begun
    end = time.perf_counter() + min(seconds, MAX_STEADY_S)
    steady = _latencies(catalog, queries, lambda: time.perf_counter() > end)
    return (
        {"contestant": "swap", "round": number, "seconds": seconds, **_spread(swap)},
        {"contestant": "steady", "round": number, **_spread(steady)},
    )


def _measure_written_bytes(commands: IO[str], events: IO[str], updates: int) -> Row:
    commands.write(f"update {updates}\n")
    commands.flush()
    return {"kind": "written", **json.loads(next(events))}


def _fill(folder: Path, count: int, dimension: int) -> None:
    import pyarrow as pa

    from benchmarks.live_writer import picture
    from galleria.catalog.items import table_schema, upserts
    from galleria.catalog.table import ProductTable
    from galleria.index.kinds import Plan
    from galleria.pipelines.build_index import build_index

    vectors = _unit(np.random.default_rng(0), count, dimension)
    table = ProductTable.create(folder / "table", table_schema(dimension, BUNDLE))

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, FILL_BATCH):
            numbers = range(start, min(start + FILL_BATCH, count))
            items = [{"id": str(number), "image": picture(number)} for number in numbers]
            yield upserts(items, vectors[start : start + FILL_BATCH], BUNDLE)

    table = table.append(pa.RecordBatchReader.from_batches(table.schema, batches()))
    build_index(table, folder / "index", Plan(target_recall=0.95))


def _unit(generator: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    vectors = generator.standard_normal((count, dimension)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _latencies(catalog: "LiveCatalog", queries: NDArray[np.float32], ended: Callable[[], bool]) -> list[float]:
    """Return the milliseconds of searches, one after the other with short pauses, until `ended()`."""
    durations = []
    while not ended():
        for query in queries:
            started = time.perf_counter()
            catalog.search(query[None], 10)
            durations.append(1000 * (time.perf_counter() - started))
            time.sleep(PAUSE_S)
    return durations


def _spread(milliseconds: list[float]) -> dict[str, float]:
    return {
        "count": len(milliseconds),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
    }


if __name__ == "__main__":
    typer.run(main)
