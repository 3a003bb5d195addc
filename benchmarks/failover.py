"""How long a killed gateway is away, as its clients see it.

    python -m benchmarks.failover

Eight clients search without pause over persistent connections, as fast as responses come. Again and again a gateway is
killed (SIGKILL): of a service with one, which listens itself, and of one with two behind Ray Serve's proxy. A request
that fails is sent once more at once; a client whose second request fails too waits a tenth of a second.

"failed" counts the requests that failed at first around a kill, "failed_again" those whose second one failed too,
"first_response_s" is the time from the kill until the first response to a request that was sent after it, and "all_s"
the time until no request failed any more. "start_cpu_s" is the CPU time that the next process of a single gateway had
used at its first response, which a busy machine changes least.
"""

import json
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.load import Connection, Request
from benchmarks.results import Row, print_results
from benchmarks.served_files import ServedFiles, prepare_files
from benchmarks.services import configured_service, own_service

ITEMS, DIMENSION = 2_000, 32
PAUSE_S = 0.1
START_S = 60.0
"""Load before the first kill. A service is ready with its first gateway; it does not start if one dies meanwhile."""

QUIET_S = 5.0
"""Without a failure, a kill is over; also the time for which no failure may come after it."""

TIMEOUT_S = 300.0


class Clients:
    """Clients that search until they are stopped.

    Attributes:
        outcomes: of each request: when it was sent and answered, and how often it failed, 0 to 2.
    """

    def __init__(self, port: int, count: int) -> None:
        self.outcomes: list[tuple[float, float, int]] = []
        self._ended = threading.Event()
        vector = np.random.default_rng(0).standard_normal(DIMENSION).tolist()
        self._request = Request("/v1/search", json.dumps({"vector": vector, "k": 10}).encode())
        self._threads = [threading.Thread(target=self._run, args=(Connection(port),)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop all clients."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, connection: Connection) -> None:
        while not self._ended.is_set():
            sent = time.monotonic()
            failures = 0
            while failures < 2 and connection.send(self._request)[0] != 200:
                failures += 1
            self.outcomes.append((sent, time.monotonic(), failures))
            if failures == 2:
                time.sleep(PAUSE_S)


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills of each service.")] = 3,
    clients: Annotated[int, typer.Option(min=1, help="Clients that search.")] = 8,
    pause: Annotated[float, typer.Option(min=0, help="Seconds of load between two kills; a start takes some.")] = 60,
) -> None:
    """Measure, and print one JSON object."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        files = prepare_files(Path(scratch) / "files", ITEMS, DIMENSION)
        with own_service(files, files.index) as port:
            rows += _measure("one", port, kills, clients, pause)
        config = _two_gateways(Path(scratch) / "two.json", files)
        with configured_service("two gateways", config) as port:
            rows += _measure("two", port, kills, clients, pause)
    print_results("failover", rows, {})


def _two_gateways(path: Path, files: ServedFiles) -> Path:
    application = {
        "name": "galleria",
        "import_path": "galleria.serving.app:build",
        "args": {"bundle": str(files.bundle), "table": str(files.table), "index": str(files.index)},
        "deployments": [{"name": "Gateway", "num_replicas": 2}],
    }
    path.write_text(json.dumps({"applications": [application]}))
    return path


def _measure(gateways: str, port: int, kills: int, count: int, pause: float) -> list[Row]:
    clients = Clients(port, count)
    try:
        time.sleep(START_S)
        return [_kill(gateways, number, clients, pause) for number in range(kills)]
    finally:
        clients.end()


def _kill(gateways: str, number: int, clients: Clients, pause: float) -> Row:
    time.sleep(pause)
    first = len(clients.outcomes)
    _gateways()[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    cpu = {"start_cpu_s": _start_cpu_s(clients, killed)} if gateways == "one" else {}
    _wait_for_recovery(clients, killed, {"one": 1, "two": 2}[gateways])
    after = clients.outcomes[first:]
    failed = [answered for _, answered, failures in after if failures]
    return {
        "gateways": gateways,
        "kill": number,
        "requests": len(after),
        "failed": len(failed),
        "failed_again": sum(failures == 2 for _, _, failures in after),
        "first_response_s": min(at for sent, at, failures in after if sent > killed and failures < 2) - killed,
        "all_s": max(failed, default=killed) - killed,
        **cpu,
    }


def _start_cpu_s(clients: Clients, killed: float) -> float:
    """Wait for the first response of the next gateway; return the CPU time that its process has used."""
    while time.monotonic() < killed + TIMEOUT_S:
        if any(sent > killed and failures < 2 for sent, _, failures in clients.outcomes[-100:]):
            times = _gateways()[-1].cpu_times()
            return float(times.user + times.system)
        time.sleep(PAUSE_S / 10)
    raise SystemExit(f"the service did not come back in {TIMEOUT_S:g} s")


def _wait_for_recovery(clients: Clients, killed: float, gateways: int) -> None:
    """Wait until all gateways are there again, and no request has failed for a while."""
    while time.monotonic() < killed + TIMEOUT_S:
        time.sleep(PAUSE_S)
        since = time.monotonic() - QUIET_S
        sent_after = [outcome for outcome in clients.outcomes[-10_000:] if outcome[0] > killed]
        recent = [failures for _, answered, failures in sent_after if answered > since]
        if recent and not any(recent) and len(_gateways()) == gateways and time.monotonic() > killed + QUIET_S:
            return
    raise SystemExit(f"the service did not come back in {TIMEOUT_S:g} s")


def _gateways() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ServeReplica:galleria:Gateway" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
        return command
    except psutil.Error:  # it has ended meanwhile
        return []


if __name__ == "__main__":
    typer.run(main)
