"""A service of two shards and two replicas of everything that the gateway calls, on the shared Ray."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from galleria.serving.config import ServiceConfig
from tests.ports import free_port
from tests.serving.conftest import embed, write_table

SHARDS = 2
REPLICAS = 2


class Service(NamedTuple):
    address: str
    ids: list[str]
    images: list[bytes]
    vectors: NDArray[np.float32]
    start_s: float
    """How long all of it took to start, on this machine."""


@pytest.fixture(scope="package")
def service(
    ray_instance: None, bundle: Bundle, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    from ray import serve

    from galleria.serving.app import start

    folder: Path = tmp_path_factory.mktemp("sharded")
    items = [row for row in rows if row["role"] == "gallery"]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    build_index(write_table(folder / "table", items, vectors, bundle.hash), folder / "index", shards=SHARDS)
    port = free_port()
    config = ServiceConfig(
        bundle=str(bundle.path),
        table=str(folder / "table"),
        index=str(folder / "index"),
        shards="deployed",
        inference="deployed",
        shard_timeout_s=3,
    )
    shards = {f"Shard-{number}": {"num_replicas": REPLICAS} for number in range(SHARDS)}
    model = {"num_replicas": REPLICAS, "ray_actor_options": {"num_cpus": 0}}
    deployments = {"Model-search": model, **shards}
    begun = time.perf_counter()
    start(config, port=port, deployments=deployments)
    yield Service(
        f"http://127.0.0.1:{port}",
        [item["id"] for item in items],
        [item["image"] for item in items],
        vectors,
        time.perf_counter() - begun,
    )
    serve.shutdown()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=60, trust_env=False) as opened:
        yield opened
