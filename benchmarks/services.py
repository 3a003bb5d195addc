"""Services of `benchmarks.serving`: our own and the peers', each a process of its own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from benchmarks.peers.environments import PEERS_FOLDER
from benchmarks.served_files import ServedFiles

READY_TIMEOUT_S = 300
END_TIMEOUT_S = 60
PROBE_TIMEOUT_S = 5


def own_service(
    files: ServedFiles, index: Path, *options: str, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[int]:
    """Run our own service while the block lasts; yields its port."""
    port = _free_port()
    command = [sys.executable, "-m", "jobs.serve", "--port", str(port), "--bundle", str(files.bundle)]
    command += ["--table", str(files.table), "--index", str(index), *options]
    return _service(f"own-{index.name}", command, port, "/readyz", environment)


def configured_service(name: str, config: Path) -> AbstractContextManager[int]:
    """Run our own service with a Ray Serve config file while the block lasts; yields its port."""
    port = _free_port()
    command = [sys.executable, "-m", "jobs.serve", "--config", str(config), "--port", str(port)]
    return _service(name.replace(" ", "-"), command, port, "/readyz")


def peer_service(name: str, python: str, folder: Path, *arguments: str) -> AbstractContextManager[int]:
    """Run the module `benchmarks.peers.<name>` with an interpreter while the block lasts; yields its port."""
    port = _free_port()
    command = [python, "-m", f"benchmarks.peers.{name}", str(folder), str(port), *arguments]
    return _service(name, command, port, "/indices-list" if name == "clip_retrieval" else "/openapi.json")


@contextmanager
def _service(
    name: str, command: Sequence[str], port: int, ready_path: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Start a process, wait until it is ready, and end it and its children at the end of the block."""
    PEERS_FOLDER.mkdir(parents=True, exist_ok=True)
    with (PEERS_FOLDER / f"{name}.stderr").open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=errors, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not _is_ready(port, ready_path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start: see {errors.name}")
                time.sleep(0.1)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the process, or its children that are left


def _is_ready(port: int, path: str) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
