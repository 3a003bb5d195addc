"""What a contestant of `benchmarks.catalog` does, told by lines of JSON on stdin and answered on stdout.

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
"""Every item has one of these parts, at random: a filter `part < 2` leaves two in a hundred."""

WARM_UP = 50
LONGEST = 20.0
"""Seconds after which no more queries are asked, of one measurement."""


def part_of(number: int) -> int:
    """The part of an item; neighbours have others."""
    return number * 7919 % 10_007 % PARTS


class Contestant(ABC):
    """A store of vectors; item `number` has the id `i{number}`, a part, and a title that every write changes."""

    writes = True
    filters = True

    @abstractmethod
    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Write `[N, D]` unit vectors with an index for the inner product; gives what is worth telling."""

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Open what `build` wrote."""

    @abstractmethod
    def settings(self) -> Sequence[Any]:
        """What its search can be set to, each from the fastest on; `use` takes one."""

    @abstractmethod
    def use(self, setting: Any) -> None:
        """Search like this from now on."""

    @abstractmethod
    def find(self, query: Any, share: int) -> list[int]:
        """Numbers of the `K` nearest items whose part is below `share`; with `PARTS` of all."""

    def create(self, folder: Path, vectors: Any) -> None:
        """Make a store of items 0 … N - 1 that can be written to."""
        raise NotImplementedError

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Put items in; returns when this is acknowledged."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Let go of everything."""

    def about(self) -> dict[str, Any]:
        """What it can do."""
        return {"writes": self.writes, "filters": self.filters}

    def do_create(self, folder: str, vectors: str, base: int) -> dict[str, Any]:
        """Make a store of the first `base` vectors of a file, to write to."""
        self.create(Path(folder), np.load(vectors)[:base])
        return {}

    def do_upserts(
        self, vectors: str, base: int, batch: int, threads: int, seconds: float, most: int = 10**9
    ) -> dict[str, Any]:
        """Put batches in for some time, half of them items that are there; each waits for the one before."""
        data = np.load(vectors)
        turns = itertools.count()
        took: list[float] = []
        failed: list[BaseException] = []
        begin = time.perf_counter()

        def work() -> None:
            try:
                while time.perf_counter() < begin + seconds and not failed and (turn := next(turns)) < most:
                    places = np.arange(turn * batch, (turn + 1) * batch)
                    numbers = np.where(places % 2 == 0, places * 31 % base, base + places)
                    rows = data[(numbers + places + 1) % len(data)]
                    start = time.perf_counter()
                    self.put(numbers.tolist(), rows, f"turn {turn}")
                    took.append(time.perf_counter() - start)
            except BaseException as error:
                failed.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failed:
            raise failed[0]
        whole = time.perf_counter() - begin
        return {"per_second": len(took) * batch / whole, "p50_ms": 1000 * float(np.median(took)), "commits": len(took)}

    def do_build(self, folder: str, vectors: str) -> dict[str, Any]:
        """Build from a file of vectors."""
        data = np.load(vectors)
        begin = time.perf_counter()
        told = self.build(Path(folder), data)
        seconds = time.perf_counter() - begin
        self.close()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        return {"build_s": seconds, "disk_bytes_per_vector": size / len(data), **told}

    def do_open(self, folder: str, queries: str, count: int) -> dict[str, Any]:
        """Open, search a little, and tell how much memory that took."""
        self.queries = np.load(queries)
        before = resident()
        self.open(Path(folder))
        self.use(self.settings()[0])
        for query in self.queries[:WARM_UP]:
            self.find(query, PARTS)
        return {"rss_bytes_per_vector": (resident() - before) / count}

    def do_tune(self, truth: str, target: float) -> dict[str, Any]:
        """Take the fastest setting that reaches the recall, or else the one with the best."""
        right = np.load(truth)
        tried = []
        for setting in self.settings():
            self.use(setting)
            recall, seconds = self._measure(right, PARTS)
            tried.append((recall < target, np.median(seconds) if recall >= target else -recall, setting, recall))
        _, _, setting, recall = min(tried, key=lambda found: found[:2])
        self.use(setting)
        return {"setting": str(setting), "recall": recall}

    def do_search(self, truth: str, share: int) -> dict[str, Any]:
        """Ask every query by itself."""
        right = np.load(truth)
        for query in self.queries[:WARM_UP]:
            self.find(query, share)
        recall, seconds = self._measure(right, share)
        return {
            "p50_ms": 1000 * float(np.median(seconds)),
            "recall": recall,
            "complete": self.complete,
            "queries": len(seconds),
        }

    def _measure(self, right: Any, share: int) -> tuple[float, list[float]]:
        hits, complete, seconds = 0, 0, list[float]()
        for query, wanted in zip(self.queries, right, strict=True):
            begin = time.perf_counter()
            found = self.find(query, share)
            seconds.append(time.perf_counter() - begin)
            hits += len(set(found) & set(wanted.tolist()))
            complete += len(set(found)) == K and all(part_of(number) < share for number in found)
            if sum(seconds) > LONGEST:
                break
        self.complete = complete / len(seconds)
        return hits / len(seconds) / K, seconds


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(make: Callable[[], Contestant]) -> None:
    """Answer lines of JSON, one for each, until stdin ends. What the library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contestant = make()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": getattr(contestant, asked.pop("do"))(**asked)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    contestant.close()
