"""Load on an HTTP service: closed, each client one request after the other, and open, at a rate of its own."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

CONNECTIONS = 64
"""Requests of an open load that can be under way at a time; one that is due later than that counts as waiting."""

Row = dict[str, Any]


class Ask(NamedTuple):
    """One request."""

    path: str
    body: bytes
    content_type: str = "application/json"


class Connection:
    """A connection that is kept from one request to the next."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def send(self, ask: Ask) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the connection broke."""
        try:
            self._http.request("POST", ask.path, ask.body, {"Content-Type": ask.content_type})
            answer = self._http.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            return 0, b""

    def close(self) -> None:
        """Let go of it."""
        self._http.close()


def closed_load(port: int, asks: Sequence[Ask], clients: int, seconds: float) -> Row:
    """Requests a second of so many clients, and how long one takes."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    turns = itertools.count()
    end = time.perf_counter() + seconds

    def work() -> None:
        connection = Connection(port)
        while (begun := time.perf_counter()) < end:
            status, _ = connection.send(asks[next(turns) % len(asks)])
            if status == 200:
                taken.append(time.perf_counter() - begun)
            statuses[status] += 1
        connection.close()

    begun = time.perf_counter()
    _together(clients, work)
    whole = time.perf_counter() - begun
    return {"clients": clients, "per_second": statuses[200] / whole, **_latencies(taken), "statuses": dict(statuses)}


def open_load(port: int, asks: Sequence[Ask], rate: float, seconds: float) -> Row:
    """How long an answer takes from the moment at which its request was due, at `rate` a second."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    due = iter(zip(arrivals.tolist(), itertools.cycle(asks), strict=False))
    lock = threading.Lock()
    begun = time.perf_counter()

    def work() -> None:
        connection = Connection(port)
        for moment, ask in _each(due, lock):
            time.sleep(max(0.0, begun + moment - time.perf_counter()))
            status, _ = connection.send(ask)
            if status == 200:
                taken.append(time.perf_counter() - begun - moment)
            statuses[status] += 1
        connection.close()

    _together(CONNECTIONS, work)
    answered = statuses[200] / (time.perf_counter() - begun)
    return {"rate": rate, "per_second": answered, **_latencies(taken), "statuses": dict(statuses)}


def _each(items: Iterator[Any], lock: threading.Lock) -> Iterator[Any]:
    """What several threads take from one iterator."""
    while True:
        with lock:
            item = next(items, None)
        if item is None:
            return
        yield item


def _together(count: int, work: Callable[[], None]) -> None:
    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _latencies(taken: Sequence[float]) -> Row:
    p50, p95, p99 = np.percentile(taken or [np.nan], (50, 95, 99)) * 1000
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
