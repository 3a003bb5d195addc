"""A contestant of `benchmarks.catalog`: calls come as lines of JSON on stdin, results go to stdout.

A contestant runs in the environment of its library: nothing but NumPy is imported here.
"""

import itertools
import json
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

K = 10
PARTS = 100
"""Every item has one of these parts, at random: a filter `part < 2` selects two in a hundred."""

SELECTIVITIES = (2, 20, 50)
"""Percent of the items that the filters select."""

WARM_UP_QUERIES = 50
MAX_SEARCH_S = 20.0
"""Time after which a measurement of searches ends."""


def part_of(number: int) -> int:
    """Return the part of an item; neighbours have others."""
    return number * 7919 % 10_007 % PARTS


class Contestant(ABC):
    """A store of vectors; item `number` has the id `i{number}`, a part, and a title that every write changes."""

    writes = True
    filters = True

    @abstractmethod
    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Write `[N, D]` unit vectors with an index for the inner product; return details to report."""

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Open what `build` wrote."""

    @abstractmethod
    def settings(self) -> Sequence[Any]:
        """Return the settings of its search, each kind from the fastest on; `use` takes one."""

    @abstractmethod
    def use(self, setting: Any) -> None:
        """Search with a setting from now on."""

    @abstractmethod
    def search(self, query: Any, selectivity: int) -> list[int]:
        """Return numbers of the `K` nearest items whose part is below `selectivity`; `PARTS` searches all."""

    def create(self, folder: Path, vectors: Any) -> None:
        """Make a store of items 0 … N - 1 that can be written to."""
        raise NotImplementedError

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Upsert items; return once they are acknowledged."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Release resources."""

    def about(self) -> dict[str, Any]:
        """Return what it supports."""
        return {"writes": self.writes, "filters": self.filters}

    def create_store(self, folder: str, vectors: str, base: int) -> dict[str, Any]:
        """Create a store of the first `base` vectors of a file."""
        self.create(Path(folder), np.load(vectors)[:base])
        return {}

    def measure_upserts(
        self, vectors: str, base: int, batch: int, threads: int, seconds: float, max_commits: int = 10**9
    ) -> dict[str, Any]:
        """Upsert batches for some time, half of the items existing ones; each waits for the one before."""
        data = np.load(vectors)
        turns = itertools.count()
        durations: list[float] = []
        errors: list[BaseException] = []
        begin = time.perf_counter()

        def work() -> None:
            try:
                while time.perf_counter() < begin + seconds and not errors and (turn := next(turns)) < max_commits:
                    positions = np.arange(turn * batch, (turn + 1) * batch)
                    numbers = np.where(positions % 2 == 0, positions * 31 % base, base + positions)
                    rows = data[(numbers + positions + 1) % len(data)]
                    start = time.perf_counter()
                    self.put(numbers.tolist(), rows, f"turn {turn}")
                    durations.append(time.perf_counter() - start)
            except BaseException as error:
                errors.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        elapsed = time.perf_counter() - begin
        p50_ms = 1000 * float(np.median(durations))
        return {"per_second": len(durations) * batch / elapsed, "p50_ms": p50_ms, "commits": len(durations)}

    def build_index(self, folder: str, vectors: str) -> dict[str, Any]:
        """Build from a file of vectors."""
        data = np.load(vectors)
        begin = time.perf_counter()
        details = self.build(Path(folder), data)
        seconds = time.perf_counter() - begin
        self.close()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        return {"build_s": seconds, "disk_bytes_per_vector": size / len(data), **details}

    def open_index(self, folder: str, queries: str, count: int) -> dict[str, Any]:
        """Open the index, search a little, and measure how much memory that takes."""
        self.queries = np.load(queries)
        before = resident_bytes()
        self.open(Path(folder))
        self.use(self.settings()[0])
        for query in self.queries[:WARM_UP_QUERIES]:
            self.search(query, PARTS)
        return {"rss_bytes_per_vector": (resident_bytes() - before) / count}

    def tune(self, truth: str, min_recall: float) -> dict[str, Any]:
        """Use the fastest setting that reaches the recall, or else the one with the best recall."""
        nearest = np.load(truth)
        trials = []
        for setting in self.settings():
            self.use(setting)
            recall, seconds = self._measure(nearest, PARTS)
            trials.append(
                (recall < min_recall, np.median(seconds) if recall >= min_recall else -recall, setting, recall)
            )
        _, _, setting, recall = min(trials, key=lambda trial: trial[:2])
        self.use(setting)
        return {"setting": str(setting), "recall": recall}

    def measure_searches(self, truth: str, selectivity: int) -> dict[str, Any]:
        """Search for one query after the other."""
        nearest = np.load(truth)
        for query in self.queries[:WARM_UP_QUERIES]:
            self.search(query, selectivity)
        recall, seconds = self._measure(nearest, selectivity)
        return {
            "p50_ms": 1000 * float(np.median(seconds)),
            "recall": recall,
            "complete": self.complete,
            "queries": len(seconds),
        }

    def _measure(self, nearest: Any, selectivity: int) -> tuple[float, list[float]]:
        """Return recall and the seconds of each search."""
        hits, complete, seconds = 0, 0, list[float]()
        for query, expected in zip(self.queries, nearest, strict=True):
            begin = time.perf_counter()
            numbers = self.search(query, selectivity)
            seconds.append(time.perf_counter() - begin)
            hits += len(set(numbers) & set(expected.tolist()))
            complete += len(set(numbers)) == K and all(part_of(number) < selectivity for number in numbers)
            if sum(seconds) > MAX_SEARCH_S:
                break
        self.complete = complete / len(seconds)
        return hits / len(seconds) / K, seconds


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(create: Callable[[], Contestant]) -> None:
    """Serve calls until stdin ends: a line of JSON for each. What the library prints goes to stderr."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contestant = create()
    for line in sys.stdin:
        call = json.loads(line)
        try:
            result = {"result": getattr(contestant, call.pop("method"))(**call)}
        except Exception as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"[:300]}
        results.write(json.dumps(result) + "\n")
        results.flush()
    contestant.close()
