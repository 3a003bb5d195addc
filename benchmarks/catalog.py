"""Durable writes, searches and filtered searches of the catalogue, against other stores and hand-tuned FAISS.

    python -m benchmarks.catalog

About an hour on two CPU cores, most of it for 200,000 × 256; peers are installed on demand, each into an environment
of its own, which needs a package index. `--sizes ""` measures writes only, `--seconds 0` searches only.

Every contestant is a process of its own, with the same clustered unit vectors; contestants take turns.

Upserts: half of them replace one of 10,000 items, and each batch is acknowledged before the next is sent. The calls
of fsync for one upsert are counted with strace, where it is installed. A durable peer is one that calls it: what the
others acknowledge is lost with the power.

Searches: the ten nearest, one query at a time. Peers and FAISS are tuned on the measured queries, to the fastest
setting with a recall@10 of .99, and are part of a ratio only where they reach it; the own catalogue uses the setting
that its build chose. Filters select 2, 20 and 50 % of all items, at random. Memory is the growth of a fresh process
that opens the index and searches a little.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.contestants import PEERS, STORES, ContestantProcess, contestant_process
from benchmarks.peers.contestant import PARTS, SELECTIVITIES, K, part_of
from benchmarks.peers.environments import PEERS_FOLDER, install
from benchmarks.results import Row, interleave, matching, print_results, ratio
from benchmarks.vectors import clustered

MIN_RECALL = 0.99
STORED_ITEMS = 10_000
"""Items in a store before the first upsert."""

TRACED_COMMITS = 20
WRITES = ((1, 1), (32, 1), (1000, 1), (1, 8))
"""Batch size and threads."""

GROWTH = (10_000, 30_000, 100_000, 300_000, 1_000_000)
GROWTH_DIMENSION = 128
Ratios = dict[str, list[float]]


def main(
    sizes: Annotated[str, typer.Option(help="Vectors x dimensions, comma-separated; empty for no searches.")] = (
        "50000x128,200000x256"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    peers: Annotated[str, typer.Option(help="Peers, comma-separated; empty for none.")] = ",".join(PEERS),
    seconds: Annotated[float, typer.Option(min=0, help="Of each measurement of upserts; 0 for none.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each measurement of searches.")] = 500,
    growth: Annotated[Path | None, typer.Option(help="Also measure up to a million vectors; a PNG to plot into.")] = (
        None
    ),
    growth_sizes: Annotated[str, typer.Option(hidden=True)] = ",".join(map(str, GROWTH)),
) -> None:
    """Measure, and print one JSON object."""
    PEERS_FOLDER.mkdir(parents=True, exist_ok=True)
    names = [name for name in peers.split(",") if name]
    for name in names:
        install(name, PEERS[name])
    rows: list[Row] = []
    ratios: Ratios = {}
    with tempfile.TemporaryDirectory(dir=PEERS_FOLDER.parent) as folder:
        scratch = Path(folder)
        if seconds:
            rows += _measure_writes(scratch, names, rounds, seconds)
            ratios |= _write_ratios(rows)
        for size in filter(None, sizes.split(",")):
            count, dimension = map(int, size.split("x"))
            measured = _measure_searches(scratch / size, ["own", "faiss", *names], count, dimension, rounds, queries)
            rows += measured
            ratios |= _search_ratios(measured, size)
        if growth is not None:
            rows += _measure_growth(scratch, [int(size) for size in growth_sizes.split(",")], rounds, queries, growth)
    print_results("catalog", rows, ratios)


# Writes


def _measure_writes(scratch: Path, names: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    file = scratch / "writes.npy"
    np.save(file, clustered(4 * STORED_ITEMS, 128, seed=1))
    writers = ["own", *(name for name in names if name in STORES)]
    fsyncs = {name: _fsyncs_per_commit(name, scratch, file) for name in writers}
    rows = []
    for batch, threads in WRITES:
        for number, name in interleave(writers, rounds):
            with _store(name, scratch, file) as process:
                measured = process.call(
                    "measure_upserts",
                    vectors=str(file),
                    base=STORED_ITEMS,
                    batch=batch,
                    threads=threads,
                    seconds=seconds,
                )
            row = {"kind": "upserts", "contestant": name, "batch": batch, "threads": threads, "round": number}
            rows.append({**row, **measured, "fsyncs_per_commit": fsyncs[name]})
    return rows


@contextmanager
def _store(name: str, scratch: Path, file: Path, prefix: Sequence[str] = ()) -> Iterator[ContestantProcess]:
    """Run a contestant with a store that can be written to."""
    folder = scratch / f"{name}-store"
    try:
        with contestant_process(name, prefix) as process:
            process.call("create_store", folder=str(folder), vectors=str(file), base=STORED_ITEMS)
            yield process
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fsyncs_per_commit(name: str, scratch: Path, file: Path) -> float | None:
    """Count the calls that make the disk keep what was written, for single upserts; None without strace."""
    if shutil.which("strace") is None:
        return None
    trace = scratch / f"{name}.strace"
    tracer = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", str(trace)]
    limits = {"batch": 1, "threads": 1, "seconds": 600, "max_commits": TRACED_COMMITS}
    with _store(name, scratch, file, tracer) as process:
        before = len(trace.read_text().splitlines())
        measured = process.call("measure_upserts", vectors=str(file), base=STORED_ITEMS, **limits)
        after = len(trace.read_text().splitlines())
    return (after - before) / measured["commits"] if "commits" in measured else None


def _write_ratios(rows: Sequence[Row]) -> Ratios:
    ratios: Ratios = {}
    for batch, threads in WRITES:
        measured = matching(rows, batch=batch, threads=threads)
        durable = [row for row in measured if row["contestant"] == "own" or row["fsyncs_per_commit"]]
        label = f"batch_{batch}" + ("" if threads == 1 else f"_threads_{threads}")
        ratios[f"upserts_over_best_peer_{label}"] = ratio(measured, "per_second", list(PEERS), max)
        ratios[f"upserts_over_best_durable_peer_{label}"] = ratio(durable, "per_second", list(PEERS), max)
    return ratios


# Searches


def _measure_searches(
    scratch: Path, names: Sequence[str], count: int, dimension: int, rounds: int, queries: int
) -> list[Row]:
    scratch.mkdir()
    files = _write_queries(scratch, count, dimension, queries)
    size = {"count": count, "dimension": dimension}
    rows: list[Row] = []
    processes: dict[str, ContestantProcess] = {}
    try:
        for name in names:
            process, built = _open_index(name, scratch / name, files, count)
            rows.append({"kind": "index", "contestant": name, **size, **built})
            if process is not None:
                processes[name] = process
        filters = {name: process.call("about")["filters"] for name, process in processes.items()}
        for number, name in interleave(processes, rounds):
            for selectivity in (PARTS, *SELECTIVITIES) if filters[name] else (PARTS,):
                truth = str(files[f"truth-{selectivity}"])
                measured = processes[name].call("measure_searches", truth=truth, selectivity=selectivity)
                row = {"kind": "search", "contestant": name, "selectivity": selectivity, "round": number}
                rows.append({**row, **size, **measured})
    finally:
        for process in processes.values():
            process.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def _open_index(name: str, folder: Path, files: dict[str, Path], count: int) -> tuple[ContestantProcess | None, Row]:
    """Build an index in one process, and open and tune it in a fresh one; None where one of these failed."""
    with contestant_process(name) as builder:
        row = builder.call("build_index", folder=str(folder), vectors=str(files["vectors"]))
    process = ContestantProcess(name)
    for method, arguments in (
        ("open_index", {"folder": str(folder), "queries": str(files["queries"]), "count": count}),
        ("tune", {"truth": str(files[f"truth-{PARTS}"]), "min_recall": MIN_RECALL}),
    ):
        if "error" not in row:
            row |= process.call(method, **arguments)
    if "error" in row:
        process.close()
        return None, row
    return process, row


def _write_queries(scratch: Path, count: int, dimension: int, queries: int) -> dict[str, Path]:
    """Write files of vectors, queries and, for each filter, the exact hits."""
    import faiss

    vectors, query_vectors = clustered(count, dimension, seed=1), clustered(queries, dimension, seed=2)
    parts = np.array([part_of(number) for number in range(count)])
    arrays = {"vectors": vectors, "queries": query_vectors}
    for selectivity in (PARTS, *SELECTIVITIES):
        selected = np.flatnonzero(parts < selectivity)
        candidates = np.ascontiguousarray(vectors[selected])
        _, nearest = faiss.knn(query_vectors, candidates, K, metric=faiss.METRIC_INNER_PRODUCT)
        arrays[f"truth-{selectivity}"] = selected[nearest]
    files = {name: scratch / f"{name}.npy" for name in arrays}
    for name, file in files.items():
        np.save(file, arrays[name])
    return files


def _search_ratios(rows: Sequence[Row], size: str) -> Ratios:
    """Return ratios of latencies, so that less than 1 is faster."""
    searches = [row for row in rows if row["kind"] == "search" and "p50_ms" in row]
    accurate = [row for row in searches if row["recall"] >= MIN_RECALL or row["contestant"] == "own"]
    unfiltered = matching(accurate, selectivity=PARTS)
    ratios: Ratios = {
        f"search_over_best_faiss_{size}": ratio(unfiltered, "p50_ms", ["faiss"]),
        f"search_over_best_peer_{size}": ratio(unfiltered, "p50_ms", list(PEERS)),
        f"search_over_best_store_{size}": ratio(unfiltered, "p50_ms", STORES),
    }
    baseline = [{**row, "contestant": "unfiltered"} for row in matching(unfiltered, contestant="own")]
    for selectivity in SELECTIVITIES:
        filtered = matching(accurate, selectivity=selectivity)
        own = matching(filtered, contestant="own")
        label = f"{selectivity}_percent_{size}"
        ratios[f"filtered_over_unfiltered_{label}"] = ratio([*own, *baseline], "p50_ms", ["unfiltered"])
        ratios[f"filter_completeness_{label}"] = [row["complete"] for row in own]
        ratios[f"filtered_over_best_peer_{label}"] = ratio(filtered, "p50_ms", list(PEERS))
    return ratios


# Growth


def _measure_growth(scratch: Path, counts: Sequence[int], rounds: int, queries: int, plot: Path) -> list[Row]:
    rows: list[Row] = []
    for count in counts:
        rows += _measure_searches(scratch / f"growth-{count}", ["own"], count, GROWTH_DIMENSION, rounds, queries)
    _plot(rows, plot)
    return [{**row, "growth": True} for row in rows]


def _plot(rows: Sequence[Row], file: Path) -> None:
    """Plot build time, latency and bytes per vector over the number of vectors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    indexes = matching(rows, kind="index")
    searches = matching(rows, kind="search", selectivity=PARTS)
    latencies = {
        row["count"]: float(np.median([search["p50_ms"] for search in matching(searches, count=row["count"])]))
        for row in indexes
    }
    counts = [row["count"] for row in indexes]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    lines = {
        "build time in s": [row["build_s"] for row in indexes],
        "search latency in ms (p50)": [latencies[count] for count in counts],
        "bytes of memory per vector": [row["rss_bytes_per_vector"] for row in indexes],
    }
    for axis, (title, values) in zip(axes, lines.items(), strict=True):
        axis.plot(counts, values, marker="o")
        axis.set(title=title, xlabel="vectors × 128", xscale="log", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    typer.run(main)
