"""The gateway is killed while clients are connected: it comes back, or the process of the service ends and says why."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from tests.faults.load import Load
from tests.ports import free_port
from tests.serving.conftest import embed, write_table
from tests.soak import rounds

pytestmark = pytest.mark.slow

TIMEOUT_S = 600
"""In which it must have started, come back each time, and ended."""

SERVE = """
import sys
from pathlib import Path
from galleria.cli.terminal import wait_until_interrupted
from galleria.serving.config import ServiceConfig
from galleria.serving.run import OutageMonitor, serving

folder, port = Path(sys.argv[1]), int(sys.argv[2])
config = ServiceConfig(**{name: str(folder / name) for name in ("bundle", "table", "index")}, runtime="torch")
monitors = []

def check():
    if not (folder / "index").exists():
        monitors[:] = monitors or [OutageMonitor(limit_s=30)]
        monitors[0].check()

with serving(config, "127.0.0.1", port) as address:
    wait_until_interrupted(address, check)
"""
"""`galleria serve`, whose outage may take half a minute, and begins when its index is missing."""


@pytest.fixture
def folder(bundle: Bundle, rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    items = [row for row in rows if row["role"] == "gallery"]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    build_index(write_table(tmp_path / "table", items, vectors, bundle.hash), tmp_path / "index")
    (tmp_path / "bundle").symlink_to(bundle.path)
    return tmp_path


@pytest.fixture
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a service, and its address."""
    port = free_port()
    environment = os.environ | {"RAY_worker_niceness": "0", "GALLERIA_READ_KEY": "a key of some length"}
    command = [sys.executable, "-u", "-c", SERVE, str(folder), str(port)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        assert any("serving on" in line for line in process.stdout), "it did not start"
        yield process, f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait()
        watchdog.cancel()


def kill_gateway(process: subprocess.Popen[str]) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    [gateway] = [child for child in children if "ServeReplica:galleria:Gateway" in " ".join(child.cmdline())]
    gateway.kill()
    gateway.wait()


def wait_for_livez(address: str) -> None:
    while True:
        try:
            if httpx.get(f"{address}/livez", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)


def test_killed_gateway_comes_back_or_service_ends(service: tuple[subprocess.Popen[str], str], folder: Path) -> None:
    """R6: whatever connections clients hold."""
    process, address = service
    host, port = address.removeprefix("http://").split(":")
    routes = httpx.get(f"{address}/-/routes", trust_env=False)
    assert (routes.status_code, "galleria:" in routes.text) == (401, True), "only with a key"

    def livez(client: httpx.Client) -> tuple[bool, str]:
        status = client.get("/livez").status_code
        return status == 200, str(status)

    idle = []
    with Load(address, livez):
        for _ in rounds(2):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(100)
            idle.append(connection)
            kill_gateway(process)
            wait_for_livez(address)

    (folder / "index").rename(folder / "away")
    kill_gateway(process)
    assert process.wait() == 1
    assert process.stdout is not None
    error = process.stdout.read()
    assert "the service has been down for 30 s" in error
    assert "index" in error.partition("the service has been down for")[2]
    for connection in idle:
        connection.close()
