"""The gateway is killed, or hangs, while clients are connected: it comes back, or the service ends and says why."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from tests.faults.load import Load
from tests.ports import free_port
from tests.serving.conftest import embed, write_table
from tests.soak import SOAK, rounds

pytestmark = pytest.mark.slow

TIMEOUT_S = 600 * SOAK
"""In which it must have started, come back each time, and ended."""

SERVE = """
import sys
from pathlib import Path
from galleria.cli.terminal import wait_until_interrupted
from galleria.serving.app import outage
from galleria.serving.config import ServiceConfig
from galleria.serving.run import OutageMonitor, serving

folder, port = Path(sys.argv[1]), int(sys.argv[2])
config = ServiceConfig(**{name: str(folder / name) for name in ("bundle", "table", "index")}, runtime="torch")
monitors = []

def check():
    if outage() is None:
        (folder / "running").touch()
    if not (folder / "index").exists():
        monitors[:] = monitors or [OutageMonitor(limit_s=60)]
        monitors[0].check()

with serving(config, "127.0.0.1", port) as address:
    wait_until_interrupted(address, check)
"""
"""`galleria serve`, whose outage may take a minute, and begins when its index is missing."""


class Service(NamedTuple):
    process: subprocess.Popen[str]
    address: str
    folder: Path


@pytest.fixture(scope="module")
def service(bundle: Bundle, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The process of a service, which the last test ends."""
    folder = tmp_path_factory.mktemp("outage")
    items = [row for row in rows if row["role"] == "gallery"]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    build_index(write_table(folder / "table", items, vectors, bundle.hash), folder / "index")
    (folder / "bundle").symlink_to(bundle.path)
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
        yield Service(process, f"http://127.0.0.1:{port}", folder)
        process.send_signal(signal.SIGTERM)
        process.wait()
        watchdog.cancel()


def gateway_of(service: Service) -> psutil.Process:
    children = psutil.Process(service.process.pid).children(recursive=True)
    [gateway] = [child for child in children if "ServeReplica:galleria:Gateway" in " ".join(child.cmdline())]
    return gateway


def kill_gateway(service: Service) -> None:
    gateway = gateway_of(service)
    gateway.kill()
    gateway.wait()


def wait_for_livez(service: Service) -> None:
    while service.process.poll() is None:
        try:
            if httpx.get(f"{service.address}/livez", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the service has ended")


def wait_until_running(service: Service) -> None:
    """Wait until Serve knows that the gateway runs, which is after its first response: from then on it checks it."""
    (service.folder / "running").unlink(missing_ok=True)
    while not (service.folder / "running").exists():
        assert service.process.poll() is None
        time.sleep(0.1)


@contextlib.contextmanager
def connections(address: str) -> Iterator[list[socket.socket]]:
    """Connections that clients keep open, idle ones in the list and busy ones."""

    def livez(client: httpx.Client) -> tuple[bool, str]:
        status = client.get("/livez").status_code
        return status == 200, str(status)

    with contextlib.ExitStack() as stack, Load(address, livez):
        idle: list[socket.socket] = []
        stack.callback(lambda: [connection.close() for connection in idle])
        yield idle


def open_idle(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv(100)
    return connection


def test_routes_need_a_key(service: Service) -> None:
    routes = httpx.get(f"{service.address}/-/routes", trust_env=False)
    assert (routes.status_code, "galleria:" in routes.text) == (401, True), "only with a key"


def test_killed_gateway_comes_back(service: Service) -> None:
    """R6: whatever connections clients hold."""
    with connections(service.address) as idle:
        for _ in rounds(2):
            idle.append(open_idle(service.address))
            kill_gateway(service)
            wait_for_livez(service)


def test_hanging_gateway_is_replaced(service: Service) -> None:
    """R6: a process that is stopped for good, and holds its port and its connections."""
    with connections(service.address) as idle:
        for _ in rounds(1):
            idle.append(open_idle(service.address))
            wait_until_running(service)
            hanging = gateway_of(service)
            hanging.suspend()
            wait_for_livez(service)
            assert not hanging.is_running()
            assert gateway_of(service) != hanging


def test_service_that_stays_down_ends(service: Service) -> None:
    with connections(service.address) as idle:
        idle.append(open_idle(service.address))
        (service.folder / "index").rename(service.folder / "away")
        kill_gateway(service)
        assert service.process.wait() == 1
    assert service.process.stdout is not None
    error = service.process.stdout.read()
    assert "the service has been down for 60 s" in error
    assert "index" in error.partition("the service has been down for")[2]
