"""Overload: every request gets a response, some with hits, the rest at once with 429."""

import io
import os
import threading
import time
from collections import Counter

import httpx
import psutil
import pytest
from PIL import Image

from tests.faults.sharded.conftest import Service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIDE = 3000
"""Pixels of a picture that takes a tenth of a second to decode, and few bytes to send."""

SECONDS = 3.0 * int(os.environ.get("GALLERIA_SOAK", "1"))
CLIENTS = 48


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 40, 40)).save(file, "PNG")
    return file.getvalue()


def ask(client: httpx.Client, picture: bytes) -> httpx.Response:
    return client.post("/v1/search", files={"image": picture}, data={"k": "3"})


def closed(service: Service, picture: bytes, clients: int, seconds: float) -> list[tuple[float, httpx.Response]]:
    """Return the responses to clients that do not pause between requests, and the latency of each."""
    answers: list[tuple[float, httpx.Response]] = []
    end = time.monotonic() + seconds

    def run() -> None:
        with httpx.Client(base_url=service.address, timeout=60, trust_env=False) as client:
            while (begun := time.monotonic()) < end:
                answer = ask(client, picture)
                answers.append((time.monotonic() - begun, answer))
                if answer.status_code != 200:
                    time.sleep(0.2)  # sooner than Retry-After, and late enough to leave the cores to the service

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def gateway() -> psutil.Process:
    """The process that holds what comes in, of the Ray that these tests have started."""
    processes = psutil.Process().children(recursive=True)
    [found] = [process for process in processes if "ServeReplica:galleria:Gateway" in " ".join(process.cmdline())]
    return found


def test_overload_is_rejected_at_once(service: Service, picture: bytes) -> None:
    """R10: overload is answered with 429 and 503 only."""
    closed(service, picture, 4, SECONDS)
    process = gateway()
    before = process.memory_info().rss
    answers = closed(service, picture, CLIENTS, 2 * SECONDS)
    after = process.memory_info().rss

    statuses = Counter(answer.status_code for _, answer in answers)
    assert statuses.keys() <= {200, 429, 503}, statuses
    assert statuses[200] > 10
    assert statuses[429] > 10
    for _, answer in answers:
        if answer.status_code != 200:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["content-type"] == "application/problem+json"
    rejected = sorted(latency for latency, answer in answers if answer.status_code == 429)
    answered = sorted(latency for latency, answer in answers if answer.status_code == 200)
    assert rejected[len(rejected) // 2] < answered[len(answered) // 2], "a rejected request need not wait"
    assert after - before < 100e6

    with httpx.Client(base_url=service.address, timeout=60, trust_env=False) as client:
        assert ask(client, picture).status_code == 200, "and it goes on"
        assert client.get("/livez").status_code == 200
