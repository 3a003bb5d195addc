"""Durable writes, searches and filtered searches of the catalogue, against other stores and FAISS set by hand.

Every contestant is a process of its own, with the same clustered unit vectors; contestants take turns. Peers are
installed on demand, each into an environment of its own. Upserts: half of them replace one of 10,000 items, each batch
is acknowledged before the next is sent; how often a store calls fsync for one is counted with strace, where there is
one, and a durable peer is one that does: what the others acknowledge is lost with the power. Searches: the ten
nearest, one query at a time; peers and FAISS by hand are tuned on the very queries that are measured, to the fastest
setting with a recall@10 of .99, and take part in a ratio only where they reach it; ours has what it chose itself. A
store is a peer that can be written to. Filters leave 2, 20 and 50 % of all items, at random. Memory is what a fresh
process grows by when it opens the index and searches a little.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.peers.contestant import PARTS, K, part_of
from benchmarks.peers.environments import HOME, install, python_of
from benchmarks.results import print_results

PEERS = {
    "lancedb": ("lancedb==0.40.0",),
    "chroma": ("chromadb==1.5.9",),
    "milvus": ("pymilvus==3.0.2", "milvus-lite==3.2.2"),
    "autofaiss": ("autofaiss==2.18.0", "pyarrow==20.0.0"),  # newer ones refuse its NumPy
}
STORES = ("lancedb", "chroma", "milvus")
SHARES = (2, 20, 50)
RECALL = 0.99
STORED = 10_000
"""Items that are there before the first upsert."""

WRITES = ((1, 1), (32, 1), (1000, 1), (1, 8))
"""Batch and threads."""

GROWTH = (10_000, 30_000, 100_000, 300_000, 1_000_000)
Row = dict[str, Any]


def main(
    sizes: Annotated[str, typer.Option(help="Vectors x values, with commas; empty for no searches.")] = (
        "50000x128,200000x256"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    peers: Annotated[str, typer.Option(help="Which, with commas; empty for none.")] = ",".join(PEERS),
    seconds: Annotated[float, typer.Option(min=0, help="Of each measurement of upserts; 0 for none.")] = 4,
    queries: Annotated[int, typer.Option(min=1)] = 500,
    growth: Annotated[Path | None, typer.Option(help="Also measure up to a million vectors; a PNG to plot into.")] = (
        None
    ),
    growth_sizes: Annotated[str, typer.Option(hidden=True)] = ",".join(map(str, GROWTH)),
) -> None:
    """Measure, and print one JSON object."""
    HOME.mkdir(parents=True, exist_ok=True)
    names = [name for name in peers.split(",") if name]
    for name in names:
        install(name, PEERS[name])
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=HOME.parent) as scratch:
        if seconds:
            found = _writes(Path(scratch), names, rounds, seconds)
            rows += found
            ratios |= _write_ratios(found, rounds)
        for size in filter(None, sizes.split(",")):
            count, dimension = map(int, size.split("x"))
            found = _searches(Path(scratch) / size, ["own", "faiss", *names], count, dimension, rounds, queries)
            rows += found
            ratios |= _search_ratios(found, size, rounds)
        if growth is not None:
            found = []
            for count in map(int, growth_sizes.split(",")):
                found += _searches(Path(scratch) / f"growth-{count}", ["own"], count, 128, rounds, queries)
            rows += [{**row, "growth": True} for row in found]
            _plot(found, growth)
    print_results("catalog", rows, ratios)


# Contestants


class Child:
    """A contestant's process."""

    def __init__(self, name: str, before: Sequence[str] = ()) -> None:
        self.name = name
        self.filters = False
        self._errors = (HOME / f"{name}.stderr").open("ab")
        python = python_of(name) if name in PEERS else sys.executable
        module = "benchmarks.catalog_own" if name == "own" else f"benchmarks.peers.{name}"
        self._process = subprocess.Popen(
            [*before, python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Row:
        """Have it do something; where it cannot, `error` says why."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        told = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in told and self.name in ("own", "faiss"):
            raise SystemExit(f"{self.name} {do}: {told['error']}: see {self._errors.name}")
        answer: Row = told.get("answer", told)
        return answer

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()


@contextmanager
def _child(name: str, before: Sequence[str] = ()) -> Iterator[Child]:
    child = Child(name, before)
    try:
        yield child
    finally:
        child.close()


def _turns(names: Sequence[str], number: int) -> Iterator[str]:
    return iter(names) if number % 2 == 0 else reversed(names)


# Writes


def _writes(scratch: Path, names: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    file = scratch / "writes.npy"
    np.save(file, clustered(4 * STORED, 128, seed=1))
    writers = ["own", *(name for name in names if name in STORES)]
    synced = {name: _syncs(name, scratch, file) for name in writers}
    rows = []
    for number in range(rounds):
        for batch, threads in WRITES:
            for name in _turns(writers, number):
                row = {"kind": "upserts", "contestant": name, "batch": batch, "threads": threads, "round": number}
                with _stored(name, scratch, file) as child:
                    found = child.ask(
                        "do_upserts", vectors=str(file), base=STORED, batch=batch, threads=threads, seconds=seconds
                    )
                rows.append({**row, **found, "fsyncs_per_commit": synced[name]})
    return rows


@contextmanager
def _stored(name: str, scratch: Path, file: Path, before: Sequence[str] = ()) -> Iterator[Child]:
    """A contestant with a store that can be written to."""
    folder = scratch / f"{name}-store"
    try:
        with _child(name, before) as child:
            child.ask("do_create", folder=str(folder), vectors=str(file), base=STORED)
            yield child
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _syncs(name: str, scratch: Path, file: Path, commits: int = 20) -> float | None:
    """How often a store tells the disk to keep what was written, for each of some upserts of one item."""
    if shutil.which("strace") is None:
        return None
    trace = scratch / f"{name}.strace"
    tracing = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", str(trace)]
    with _stored(name, scratch, file, tracing) as child:
        before = len(trace.read_text().splitlines())
        done = child.ask("do_upserts", vectors=str(file), base=STORED, batch=1, threads=1, seconds=600, most=commits)
        after = len(trace.read_text().splitlines())
    return (after - before) / done["commits"] if "commits" in done else None


def _write_ratios(rows: Sequence[Row], rounds: int) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {}
    for batch, threads in WRITES:
        at = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads) and "per_second" in row]
        name = f"upserts_over_best_peer_batch_{batch}" + ("" if threads == 1 else f"_threads_{threads}")
        ratios |= _over(name, at, "per_second", rounds, list(PEERS), max)
        durable = [row for row in at if row["contestant"] == "own" or row["fsyncs_per_commit"]]
        ratios |= _over(name.replace("peer", "durable_peer"), durable, "per_second", rounds, list(PEERS), max)
    return ratios


# Searches


def clustered(count: int, dimension: int, seed: int, inner: int = 24, heaps: int = 500, spread: float = 0.6) -> Any:
    """Unit vectors `[N, D]` in heaps that overlap, the same for every seed, near a plane of `inner` dimensions.

    As with vectors of a network, the nearest is at a cosine of about .86, and a search in lists has to look at several.
    """
    shared = np.random.default_rng(0)
    centres = shared.standard_normal((heaps, inner), np.float32)
    plane = shared.standard_normal((inner, dimension), np.float32) / np.float32(np.sqrt(dimension))
    generator = np.random.default_rng(seed)
    places = centres[generator.integers(0, heaps, count)]
    places += np.float32(spread) * generator.standard_normal((count, inner), np.float32)
    vectors = places @ plane
    vectors += np.float32(0.1 * np.sqrt(inner / dimension)) * generator.standard_normal((count, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _searches(scratch: Path, names: Sequence[str], count: int, dimension: int, rounds: int, queries: int) -> list[Row]:
    scratch.mkdir()
    files = _questions(scratch, count, dimension, queries)
    common = {"count": count, "dimension": dimension}
    rows: list[Row] = []
    children: dict[str, Child] = {}
    try:
        for name in names:
            row: Row = {"kind": "index", "contestant": name, **common}
            with _child(name) as builder:
                row |= builder.ask("do_build", folder=str(scratch / name), vectors=str(files["vectors"]))
            child = children[name] = Child(name)
            for do, arguments in (
                ("do_open", {"folder": str(scratch / name), "queries": str(files["queries"]), "count": count}),
                ("do_tune", {"truth": str(files[PARTS]), "target": RECALL}),
            ):
                if "error" not in row:
                    row |= child.ask(do, **arguments)
            if "error" in row:
                children.pop(name).close()
            else:
                child.filters = child.ask("about")["filters"]
            rows.append(row)
        for number in range(rounds):
            for name in _turns(list(children), number):
                for share in (PARTS, *SHARES) if children[name].filters else (PARTS,):
                    found = children[name].ask("do_search", truth=str(files[share]), share=share)
                    row = {"kind": "search", "contestant": name, **common, "share": share, "round": number}
                    rows.append({**row, **found})
    finally:
        for child in children.values():
            child.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def _questions(scratch: Path, count: int, dimension: int, queries: int) -> dict[Any, Path]:
    """Files of vectors, queries and, for each filter, the right answers."""
    import faiss

    vectors, asked = clustered(count, dimension, seed=1), clustered(queries, dimension, seed=2)
    parts = np.array([part_of(number) for number in range(count)])
    files: dict[Any, Path] = {"vectors": scratch / "vectors.npy", "queries": scratch / "queries.npy"}
    np.save(files["vectors"], vectors)
    np.save(files["queries"], asked)
    for share in (PARTS, *SHARES):
        places = np.flatnonzero(parts < share)
        _, nearest = faiss.knn(asked, np.ascontiguousarray(vectors[places]), K, metric=faiss.METRIC_INNER_PRODUCT)
        files[share] = scratch / f"truth-{share}.npy"
        np.save(files[share], places[nearest])
    return files


def _search_ratios(rows: Sequence[Row], size: str, rounds: int) -> dict[str, list[float]]:
    """Latencies, so that less than 1 is faster."""
    found = [row for row in rows if row["kind"] == "search" and "p50_ms" in row]
    whole = [row for row in found if row["share"] == PARTS]
    exact = [row for row in whole if row["recall"] >= RECALL or row["contestant"] == "own"]
    ratios: dict[str, list[float]] = {}
    ratios |= _over(f"search_over_best_faiss_{size}", exact, "p50_ms", rounds, ["faiss"], min)
    ratios |= _over(f"search_over_best_peer_{size}", exact, "p50_ms", rounds, list(PEERS), min)
    ratios |= _over(f"search_over_best_store_{size}", exact, "p50_ms", rounds, STORES, min)
    for share in SHARES:
        own = {row["round"]: row for row in found if row["contestant"] == "own" and row["share"] == share}
        base = {row["round"]: row for row in whole if row["contestant"] == "own"}
        label = f"{share}_percent_{size}"
        ratios[f"filtered_over_unfiltered_{label}"] = [own[n]["p50_ms"] / base[n]["p50_ms"] for n in range(rounds)]
        ratios[f"filter_completeness_{label}"] = [own[n]["complete"] for n in range(rounds)]
        filtered = [
            row for row in found if row["share"] == share and (row["recall"] >= RECALL or row["contestant"] == "own")
        ]
        ratios |= _over(f"filtered_over_best_peer_{label}", filtered, "p50_ms", rounds, list(PEERS), min)
    return ratios


def _over(
    name: str, rows: Sequence[Row], value: str, rounds: int, others: Sequence[str], best: Any
) -> dict[str, list[float]]:
    """Ours over the best of the others in each round; nothing where none of them took part."""
    values: Mapping[tuple[str, int], float] = {(row["contestant"], row["round"]): row[value] for row in rows}
    took_part = [other for other in others if all((other, number) in values for number in range(rounds))]
    if not took_part:
        return {}
    return {
        name: [values["own", number] / best(values[other, number] for other in took_part) for number in range(rounds)]
    }


# Growth


def _plot(rows: Sequence[Row], file: Path) -> None:
    """Seconds to build, latency and bytes a vector over the number of vectors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    indexes = [row for row in rows if row["kind"] == "index"]
    searches = [row for row in rows if row["kind"] == "search" and row["share"] == PARTS]
    latencies = {
        row["count"]: float(np.median([found["p50_ms"] for found in searches if found["count"] == row["count"]]))
        for row in indexes
    }
    counts = [row["count"] for row in indexes]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    lines = {
        "seconds to build": [row["build_s"] for row in indexes],
        "milliseconds a search (p50)": [latencies[count] for count in counts],
        "bytes of memory a vector": [row["rss_bytes_per_vector"] for row in indexes],
    }
    for axis, (title, values) in zip(axes, lines.items(), strict=True):
        axis.plot(counts, values, marker="o")
        axis.set(title=title, xlabel="vectors × 128", xscale="log", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    typer.run(main)
