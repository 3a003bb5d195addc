"""Model and catalogue are exchanged together under load: no answer is lost, and none is of both."""

import base64
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from galleria.catalog.table import ProductTable
from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from galleria.pipelines.releases import Alias, Release, publish, read_aliases, write_alias
from galleria.serving.config import ServiceConfig
from tests.drawings import drawing
from tests.faults.load import Ask, Load
from tests.ports import free_port
from tests.serving.bundles import random_bundle
from tests.serving.conftest import embed, write_table

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Published(NamedTuple):
    folder: Path
    releases: list[Release]
    items: list[dict[str, Any]]


@pytest.fixture(scope="module")
def published(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Three models of different weights, each with a catalogue of its own whose items name it in `source`."""
    folder = tmp_path_factory.mktemp("releases")
    items = [row for row in rows if row["role"] == "gallery"]
    releases = []
    for number in (1, 2, 3):
        bundle = random_bundle("text_guided", folder / f"bundle-{number}", rows, seed=number)
        vectors = embed(bundle, [{"image": item["image"]} for item in items])
        marked = [{**item, "source": f"products@{number}"} for item in items]
        table = write_table(folder / f"table-{number}", marked, vectors, bundle.hash)
        build_index(table, folder / f"index-{number}", shards=2)
        paths = (str(folder / f"table-{number}"), str(folder / f"index-{number}"))
        releases.append(publish(folder, "products", bundle.path, *paths))
    return Published(folder, releases, items)


@pytest.fixture(scope="module", params=["local", "deployed"])
def address(ray_instance: None, published: Published, request: pytest.FixtureRequest) -> Iterator[str]:
    from ray import serve

    from galleria.serving.app import start

    write_alias(published.folder, "search", Alias(release="products@1"))
    config = ServiceConfig(
        releases=str(published.folder),
        writable=True,
        shards=request.param,
        inference=request.param,
        runtime="torch",  # an export takes half a minute a release
    )
    port = free_port()
    start(config, port=port, deployments={"Gateway": {"num_replicas": 2}})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as opened:
        yield opened


def asks(published: Published) -> Ask:
    """A search by picture: right where model, catalogue and items are of one release, and the nearest is itself."""
    hashes = {release.id: release.hash for release in published.releases}

    def ask(client: httpx.Client) -> tuple[bool, str]:
        item = random.choice(published.items)
        answer = client.post("/v1/search", files={"image": item["image"]}, data={"k": 1})
        if answer.status_code != 200:
            return False, answer.text[:300]
        found = answer.json()
        release = found["model"]["release"]
        [hit] = found["hits"]
        one = hit["item"]["source"] == release and found["model"]["hash"] == hashes[release]
        return one and hit["id"] == item["id"] and hit["score"] > 0.99 and not found["partial"], release

    return ask


def puts(published: Published) -> Ask:
    """A write of an item of its own; an acknowledged one is in the catalogues that its response names."""
    tables = {release.id: Path(release.table) for release in published.releases}

    def ask(client: httpx.Client) -> tuple[bool, str]:
        item = {"id": uuid.uuid4().hex, "vector": [1.0] * 32}
        answer = client.put("/v1/items", json={"items": [item]})
        if answer.status_code != 200:
            return answer.status_code == 503 and "retry-after" in answer.headers, answer.json()["type"]
        [result] = answer.json()["items"]
        releases = answer.json()["releases"]
        stored = [ProductTable(tables[release]).item(item["id"]) for release in releases]
        return result["status"] == "created" and bool(stored) and all(stored), " ".join(releases)

    return ask


def test_models_differ(published: Published) -> None:
    image = [{"image": published.items[0]["image"]}]
    one, other = (embed(Bundle.open(published.folder / f"bundle-{number}"), image)[0] for number in (1, 2))
    assert abs(float(np.dot(one, other))) < 0.9, "an answer of both would be seen"


def test_releases_are_exchanged_under_load(address: str, client: httpx.Client, published: Published) -> None:
    """R8: model and index change under load."""
    with Load(address, asks(published)) as load, Load(address, puts(published), clients=1) as writes:
        for number in (2, 1, 3, 2):
            answer = client.put("/v1/aliases/search", json={"release": f"products@{number}"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["aliases"]["search"]["release"] == f"products@{number}"
            written = ProductTable(published.releases[number - 1].table).version
            deadline = time.monotonic() + 60
            while ProductTable(published.releases[number - 1].table).version < written + 3:  # writes arrive there
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(1.5)

    for answers in (load.answers, writes.answers):
        wrong = {answer: count for answer, count in answers.items() if not answer[0]}
        assert not wrong, f"of {answers.total()} requests"
    refused = "urn:galleria:problem:release-changed"
    assert {outcome for _, outcome in writes.answers} - {refused} == {"products@1", "products@2", "products@3"}
    assert {release for _, release in load.answers} == {"products@1", "products@2", "products@3"}
    assert read_aliases(published.folder)["search"] == Alias(release="products@2")
    assert client.get("/v1/models").json()["models"][0]["release"] == "products@2"


def test_canary_serves_its_weight(address: str, client: httpx.Client, published: Published) -> None:
    client.put("/v1/aliases/search", json={"release": "products@1", "canary": "products@2", "canary_weight": 0.5})
    time.sleep(1.5)
    with Load(address, asks(published)) as load:
        while load.answers.total() < 150:
            time.sleep(0.1)
    answers = Counter({release: count for (right, release), count in load.answers.items() if right})
    assert answers.total() == load.answers.total()
    assert 0.25 < answers["products@2"] / answers.total() < 0.75

    def page(session: str, offset: int) -> str:
        query = {"text": "thing", "k": 2, "offset": offset}
        response = client.post("/v1/search", json=query, headers={"x-session-id": session})
        release: str = response.json()["model"]["release"]
        return release

    releases = {session: {page(session, offset) for offset in range(0, 12, 2)} for session in map(str, range(12))}
    assert all(len(seen) == 1 for seen in releases.values()), "the pages of a session are of one release"
    assert set().union(*releases.values()) == {"products@1", "products@2"}
    arms = [f'galleria_response_seconds_count{{model="search",release="products@{number}"}}' for number in (1, 2)]
    assert all(arm in client.get("/metrics").text for arm in arms)

    image = drawing(5000)
    item = {"id": "new", "image": base64.b64encode(image).decode()}
    written = client.put("/v1/items", json={"items": [item]}).json()
    assert written["items"] == [{"id": "new", "status": "created", "problem": None}]
    time.sleep(0.5)
    found = [client.post("/v1/search", files={"image": image}, data={"k": 1}).json() for _ in range(20)]
    seen = {(answer["model"]["release"], answer["hits"][0]["id"]) for answer in found}
    assert seen == {("products@1", "new"), ("products@2", "new")}, "both catalogues have what was written"
    query = {"vector": [1.0] * 32, "k": 1, "min_version": written["version"]}
    releases = [client.post("/v1/search", json=query).json()["model"]["release"] for _ in range(9)]
    assert set(releases) == {"products@1"}, "a version is one of its catalogue"
    assert client.delete("/v1/items/new").status_code == 200


def test_invalid_alias_changes_nothing(client: httpx.Client) -> None:
    before = client.get("/v1/aliases").json()
    for body, said in (
        ({"release": "products@9"}, "no release 'products@9'"),
        ({"release": "products@1", "canary_weight": 0.5}, "canary and canary_weight go together"),
        ({"release": "../x@1"}, "release"),
        ({}, "release"),
    ):
        answer = client.put("/v1/aliases/search", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert said in answer.json()["detail"]
    assert client.put("/v1/aliases/mood", json={"release": "products@1"}).status_code == 404
    assert client.get("/v1/aliases").json() == before


def test_alias_set_on_disk_is_followed(client: httpx.Client, published: Published) -> None:
    write_alias(published.folder, "search", Alias(release="products@3"))
    begun = time.perf_counter()
    while client.post("/v1/search", json={"vector": [1.0] * 32}).json()["model"]["release"] != "products@3":
        assert time.perf_counter() - begun < 20
        time.sleep(0.1)
