"""A service that is used for long grows neither in memory nor in open files."""

import base64
import gc
import json
import random
import socket
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import httpx
import psutil
import pytest
import ray

from tests.drawings import drawing
from tests.media.films import film, numbered
from tests.serving.http.test_uploads import mutated
from tests.soak import rounds

pytestmark = pytest.mark.ray

ROUNDS = 9
NOISE = 0.02
"""Growth of memory that is none: caches that fill, and what the allocator keeps."""

GROWTH_PER_HOUR = 0.01
VIDEO = film(numbered(10))


class Usage(NamedTuple):
    """What a process has in use after a round that began at `time_s`."""

    time_s: float
    memory_bytes: int
    files: int


def replicas(port: int) -> list[psutil.Process]:
    """Return the processes of the service that listens on a port: its gateway, and the others of the same Ray."""
    listening = {
        each.pid for each in psutil.net_connections("tcp4") if each.status == "LISTEN" and each.laddr[1] == port
    }
    gateways = [psutil.Process(pid) for pid in listening if pid is not None]
    return [
        each for each in gateways[0].parent().children() if "ServeReplica" in each.name() + " ".join(each.cmdline())
    ]


def use(client: httpx.Client, chance: random.Random) -> Iterator[httpx.Response]:
    """Yield the responses to requests of every kind, right and wrong."""
    seed = chance.randrange(10_000)
    image = drawing(seed)
    encoded = base64.b64encode(image).decode()
    name = f"endures {seed % 50}"
    yield client.post("/v1/search", files={"image": image})
    yield client.post(
        "/v1/search", json={"text": f"thing number {seed}", "k": 50, "filter": {"category": {"$exists": True}}}
    )
    yield client.post("/v1/search/batch", json={"queries": [{"image": encoded}, {"text": "?"}, {"item": "nothing"}]})
    written = client.put("/v1/items", json={"items": [{"id": name, "image": encoded}, {"id": name, "image": "aGk="}]})
    yield written
    yield client.get(f"/v1/items/{name}", params={"min_version": written.json()["version"]})
    yield client.get(f"/v1/items/{name}/image")
    yield client.delete(f"/v1/items/{name}")
    yield client.post("/v1/classify/mood", files={"image": mutated(chance, image)})
    yield client.post("/v1/events/party", files={"video": chance.choice([VIDEO, mutated(chance, VIDEO)])})
    yield client.post("/v1/embeddings", json={"input": ["a", f"data:image/png;base64,{encoded}"]})
    yield client.post("/v1/search", content=mutated(chance, json.dumps({"image": encoded}).encode()))
    for path in ("/nothing", "/metrics", "/readyz", "/page/search.js"):
        yield client.get(path)
    hang_up(client.base_url, image)


def hang_up(url: httpx.URL, image: bytes) -> None:
    """Send half a body, and go."""
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST /v1/classify/mood HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {2 * len(image)}\r\n\r\n"
        connection.sendall(head.encode() + image)


def test_loaded_objects_are_not_collected(client):
    """A full garbage collection stops every thread: it leaves out what was loaded at the start."""
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True) if "galleria#" in each["name"]]
    assert {name.split("#")[1] for name in names} == {"Gateway", "Writer"}
    for name in names:
        replica = ray.get_actor(name, namespace="serve")
        assert ray.get(replica.__ray_call__.remote(lambda _: gc.get_freeze_count())) > 100_000


@pytest.mark.slow
def test_long_use_leaks_nothing(client):
    """R14: after a third of the time, memory grows by 1 % an hour at most, and open files do not."""
    processes = replicas(client.base_url.port)
    assert len(processes) >= 2, "the gateway and the writer"
    usage: dict[psutil.Process, list[Usage]] = {process: [] for process in processes}
    for chance in rounds(ROUNDS):
        for _ in range(2):
            assert all(response.status_code < 500 for response in use(client, chance))
        for process, measured in usage.items():
            measured.append(Usage(time.monotonic(), process.memory_info().rss, process.num_fds()))

    for process, measured in usage.items():
        third = len(measured) // 3
        before, after = measured[third : 2 * third], measured[2 * third :]
        hours = (after[-1].time_s - before[0].time_s) / 3600
        assert median(each.files for each in after) <= max(each.files for each in before), process
        grown = median(each.memory_bytes for each in after) / median(each.memory_bytes for each in before) - 1
        assert grown <= NOISE + GROWTH_PER_HOUR * hours, f"{process} has grown by {grown:.1%} in {hours:.2f} hours"
