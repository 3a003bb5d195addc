"""Load on an HTTP service: closed, each client one request after the other, and open, at a fixed mean rate."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import Row

CONNECTIONS = 64
"""Concurrent requests of an open load; the latency of further ones includes their wait."""

TIMEOUT_S = 120


class Request(NamedTuple):
    """One request."""

    path: str
    body: bytes
    content_type: str = "application/json"


class Connection:
    """A persistent connection."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of the response; status 0 where the connection broke."""
        try:
            self._http.request("POST", request.path, request.body, {"Content-Type": request.content_type})
            response = self._http.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            return 0, b""

    def close(self) -> None:
        """Close it."""
        self._http.close()


def closed_load(port: int, requests: Sequence[Request], clients: int, seconds: float) -> Row:
    """Measure requests per second and latencies with a number of clients."""
    durations: list[float] = []
    statuses: Counter[int] = Counter()
    turns = itertools.count()
    end = time.perf_counter() + seconds

    def work() -> None:
        connection = Connection(port)
        while (begun := time.perf_counter()) < end:
            status, _ = connection.send(requests[next(turns) % len(requests)])
            if status == 200:
                durations.append(time.perf_counter() - begun)
            statuses[status] += 1
        connection.close()

    begun = time.perf_counter()
    _run_threads(clients, work)
    elapsed = time.perf_counter() - begun
    return {
        "clients": clients,
        "per_second": statuses[200] / elapsed,
        **_latencies(durations),
        "statuses": dict(statuses),
    }


def open_load(port: int, requests: Sequence[Request], rate: float, seconds: float) -> Row:
    """Measure latencies from the moment at which a request was due, with random arrivals at `rate` per second."""
    durations: list[float] = []
    statuses: Counter[int] = Counter()
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    due = iter(zip(arrivals.tolist(), itertools.cycle(requests), strict=False))
    lock = threading.Lock()
    begun = time.perf_counter()

    def work() -> None:
        connection = Connection(port)
        for moment, request in _shared(due, lock):
            time.sleep(max(0.0, begun + moment - time.perf_counter()))
            status, _ = connection.send(request)
            if status == 200:
                durations.append(time.perf_counter() - begun - moment)
            statuses[status] += 1
        connection.close()

    _run_threads(CONNECTIONS, work)
    per_second = statuses[200] / (time.perf_counter() - begun)
    return {"rate": rate, "per_second": per_second, **_latencies(durations), "statuses": dict(statuses)}


def _shared(items: Iterator[Any], lock: threading.Lock) -> Iterator[Any]:
    """Yield items of an iterator that several threads share."""
    while True:
        with lock:
            item = next(items, None)
        if item is None:
            return
        yield item


def _run_threads(count: int, work: Callable[[], None]) -> None:
    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _latencies(durations: Sequence[float]) -> Row:
    p50, p95, p99 = np.percentile(durations or [np.nan], (50, 95, 99)) * 1000
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
