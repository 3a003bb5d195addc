"""`galleria serve` as a process: it exports traces, and stops without losing a request."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from tests.drawings import drawing
from tests.ports import free_port
from tests.serving.bundles import random_bundle
from tests.serving.conftest import embed, write_table

pytestmark = pytest.mark.slow

SECONDS = 180
"""In which it must have started, answered and ended."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes what OpenTelemetry's exporters send; its address, and what it got."""
    got: list[bytes] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


@pytest.mark.parametrize("inference", ["local", "deployed"])
def test_requests_are_traced_and_none_is_lost(
    inference: str, bundle: Bundle, rows: list[dict[str, Any]], tmp_path: Path, collector: tuple[str, list[bytes]]
) -> None:
    """R13: a request in flight outlives SIGTERM."""
    items = [row for row in rows if row["role"] == "gallery"]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    build_index(write_table(tmp_path / "table", items, vectors, bundle.hash), tmp_path / "index")
    port = free_port()
    paths = {"bundle": str(bundle.path), "table": str(tmp_path / "table"), "index": str(tmp_path / "index")}
    if inference == "local":
        options = [f"--{name}={path}" for name, path in paths.items()]
    else:
        application = {
            "name": "galleria",
            "import_path": "galleria.serving.app:build",
            "args": {**paths, "inference": inference, "max_concurrent_queries": 32},
            "deployments": [{"name": "Model-search", "ray_actor_options": {"num_cpus": 0.5}}],
        }
        (tmp_path / "service.yaml").write_text(json.dumps({"applications": [application]}))
        options = [f"--config={tmp_path / 'service.yaml'}"]
    command = [sys.executable, "-m", "jobs.serve", *options, "--port", str(port)]
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[0], "RAY_worker_niceness": "0"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as service:
        watchdog = threading.Timer(SECONDS, service.kill)
        watchdog.start()
        assert service.stdout is not None
        assert any("serving on" in line for line in service.stdout), "it did not start"
        large = httpx.post(f"http://127.0.0.1:{port}/v1/search", files={"image": padded(6_000_000)}, timeout=60)
        assert large.status_code == 200, "what goes to the model may be larger than gRPC's usual 4 MB"
        answers = end_under_load(service, f"http://127.0.0.1:{port}", [item["image"] for item in items])
    watchdog.cancel()

    assert service.returncode == 0
    before = [outcome for begun, outcome in answers if begun < 0]
    assert len(before) > 20
    assert set(before) == {"200"}, "requests before the signal are completed"
    spans = b"".join(collector[1])
    assert b"Gateway" in spans
    assert (b"Model-search" in spans) == (inference == "deployed")


@pytest.mark.parametrize("begun", ["raylet", "ServeReplica"])
def test_sigterm_ends_a_service_that_starts(begun: str, tmp_path: Path) -> None:
    options = ["--bundle", "", "--table", "", "--index", "", "--option", "runtime=torch"]
    mood = random_bundle("aesthetic_emotion", tmp_path / "mood")
    command = [sys.executable, "-m", "jobs.serve", *options, "--model", f"mood={mood.path}", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as service:
        watchdog = threading.Timer(SECONDS, service.kill)
        watchdog.start()
        while not any(begun in name for name in names_of_children(service.pid)):
            time.sleep(0.05)
        service.send_signal(signal.SIGTERM)
        assert service.wait() == 0
        watchdog.cancel()
        assert service.stdout is not None
        assert "serving on" not in service.stdout.read()


def names_of_children(pid: int) -> list[str]:
    names = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            names.append(" ".join(child.cmdline()))
    return names


def padded(size: int) -> bytes:
    """A small PNG with a chunk that readers skip."""
    data = drawing(1)
    chunk = b"paDd" + bytes(size)
    padding = struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:-12] + padding + data[-12:]


def end_under_load(service: subprocess.Popen[str], address: str, images: list[bytes]) -> list[tuple[float, str]]:
    """Seconds, from the signal on, at which a request began, and how it ended."""
    answers: list[tuple[float, str]] = []
    ended = threading.Event()

    def ask(number: int) -> None:
        while not ended.is_set():
            begun = time.perf_counter()
            try:
                answer = httpx.post(
                    f"{address}/v1/search", files={"image": images[number % len(images)]}, timeout=60, trust_env=False
                )
                outcome = str(answer.status_code)
            except httpx.HTTPError as error:
                outcome = repr(error)
            answers.append((begun, outcome))
            if outcome != "200":
                return

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    started = time.perf_counter()
    for client in clients:
        client.start()
    while len(answers) < 60 and time.perf_counter() - started < 30:
        time.sleep(0.05)
    signalled = time.perf_counter()
    service.send_signal(signal.SIGTERM)
    time.sleep(3)
    ended.set()
    for client in clients:
        client.join()
    return [(begun - signalled, outcome) for begun, outcome in answers]
