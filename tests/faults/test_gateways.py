"""Two gateways: one is killed under load, and no client notices that sends a failed request once more."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from galleria.serving.config import ServiceConfig
from tests.faults.load import Load
from tests.ports import free_port
from tests.serving.conftest import embed, write_table
from tests.soak import rounds

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GATEWAYS = 2
RESPONSES = 20
"""After each kill, and before the next."""


@pytest.fixture(scope="module")
def address(
    ray_instance: None, bundle: Bundle, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    from ray import serve

    from galleria.serving.app import start

    folder: Path = tmp_path_factory.mktemp("gateways")
    items = [row for row in rows if row["role"] == "gallery"]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    build_index(write_table(folder / "table", items, vectors, bundle.hash), folder / "index")
    paths = {"bundle": str(bundle.path), "table": str(folder / "table"), "index": str(folder / "index")}
    port = free_port()
    start(ServiceConfig(**paths, runtime="torch"), port=port, deployments={"Gateway": {"num_replicas": GATEWAYS}})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def gateways() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ServeReplica:galleria:Gateway" in " ".join(child.cmdline()):
                found.append(child)
    return found


def search(client: httpx.Client) -> tuple[bool, str]:
    """A search, which is sent once more where it fails."""
    query = {"vector": [1.0] * 32, "k": 3}
    try:
        if client.post("/v1/search", json=query).status_code == 200:
            return True, "at first"
    except httpx.HTTPError:
        pass
    response = client.post("/v1/search", json=query)
    return response.status_code == 200 and len(response.json()["hits"]) == 3, response.text[:200]


def test_one_retry_hides_a_killed_gateway(address: str) -> None:
    """R6"""
    with Load(address, search) as load:
        for generator in rounds(2):
            while len(running := gateways()) < GATEWAYS:
                time.sleep(0.1)
            generator.choice(running).kill()
            responses = load.answers.total()
            while load.answers.total() < responses + RESPONSES:
                time.sleep(0.1)
    wrong = {answer: count for answer, count in load.answers.items() if not answer[0]}
    assert not wrong, f"of {load.answers.total()} requests"
