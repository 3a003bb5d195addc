"""Replicas die under load: no request fails, and results without a whole shard are reported as partial."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import ray
from ray import serve

from galleria.serving.app import NAME
from tests.faults.load import Ask, Load
from tests.faults.sharded.conftest import REPLICAS, SHARDS, Service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ASKED = ("Model-search", *(f"Shard-{number}" for number in range(SHARDS)))
"""Deployments that the gateway asks."""

ROUNDS = REPLICAS * int(os.environ.get("GALLERIA_SOAK", "1"))
"""In each, one replica of each of `ASKED` dies."""

FULL_STRENGTH_S = 30


def full_strength_limit_s(service: Service) -> float:
    """Return how long replicas may take to be back. On a slow machine the imports of a process alone take long.

    There it is twice what the service took to start on the idle machine, since the load takes half of the cores.
    """
    return max(FULL_STRENGTH_S, 2 * service.start_s)


def replicas(deployment: str) -> list[str]:
    """Names of a deployment's replicas that are alive."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in named if f"#{deployment}#" in one["name"]]


def kill(name: str) -> None:
    ray.kill(ray.get_actor(name, namespace="serve"))


@contextlib.contextmanager
def kept_down(deployment: str) -> Iterator[None]:
    """Kill a deployment's replicas, and those that come in their place, for as long as a block lasts."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.05):
            kill_all()

    def kill_all() -> None:
        for name in replicas(deployment):
            with contextlib.suppress(ValueError):  # it is gone already
                kill(name)

    kill_all()
    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def wait_for_full_strength(client: httpx.Client, service: Service) -> float:
    limit_s = full_strength_limit_s(service)
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit_s:
        deployments = serve.status().applications[NAME].deployments
        running = [deployments[name].replica_states.get("RUNNING", 0) for name in ASKED]
        alive = [len(replicas(name)) for name in ASKED]  # the controller may not know yet that one is dead
        if {*running, *alive} == {REPLICAS} and client.get("/readyz").status_code == 200:
            return time.perf_counter() - begun
        time.sleep(0.2)
    raise AssertionError(f"after {limit_s:.0f} s there are {running} of {REPLICAS} replicas of {ASKED}")


def asks(service: Service) -> Ask:
    """Searches by picture and by vector in turns; right where the nearest is the item itself, of all shards."""
    numbers = itertools.count()

    def ask(client: httpx.Client) -> tuple[bool, str]:
        number = next(numbers)
        index = number % len(service.ids)
        if number // len(service.ids) % 2:
            answer = client.post("/v1/search", json={"vector": service.vectors[index].tolist(), "k": 1})
        else:
            answer = client.post("/v1/search", files={"image": service.images[index]}, data={"k": 1})
        found = answer.json()
        right = answer.status_code == 200 and not found["partial"] and found["hits"][0]["id"] == service.ids[index]
        return right, "" if right else answer.text[:300]

    return ask


def test_killed_replicas_fail_no_request(service: Service, client: httpx.Client) -> None:
    """R6: each replica is killed under load."""
    wait_for_full_strength(client, service)
    with Load(service.address, asks(service)) as load:
        for number in range(ROUNDS):
            for deployment in ASKED:
                kill(replicas(deployment)[number % REPLICAS])
            time.sleep(0.5)
            wait_for_full_strength(client, service)

    wrong = {answer: count for answer, count in load.answers.items() if not answer[0]}
    assert not wrong, f"of {load.answers.total()} requests"
    assert load.answers.total() > 50 * ROUNDS


def test_lost_shard_makes_results_partial(service: Service, client: httpx.Client) -> None:
    """R7: a list is never silently short."""
    wait_for_full_strength(client, service)
    query = {"vector": service.vectors[0].tolist(), "k": len(service.ids)}
    whole = client.post("/v1/search", json=query).json()
    assert not whole["partial"]

    def ask() -> bool:
        """Whether an answer is partial; it is never short without saying so."""
        answer = client.post("/v1/search", json=query)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        partial: bool = found["partial"]
        assert found["shards"] == {"total": SHARDS, "searched": SHARDS - partial}
        if partial:
            assert 0 < len(found["hits"]) < len(whole["hits"])
            assert [one for one in whole["hits"] if one in found["hits"]] == found["hits"]
        else:
            assert found["hits"] == whole["hits"]
        return partial

    with kept_down("Shard-0"):
        assert all(ask() for _ in range(ROUNDS))
        ready = client.get("/readyz")
        assert (ready.status_code, [part["component"] for part in ready.json()["degraded"]]) == (200, ["shards"])

    begun = time.perf_counter()
    while ask():
        assert time.perf_counter() - begun < full_strength_limit_s(service)
    wait_for_full_strength(client, service)
    assert not ask()
