"""Writing to the running service, over real HTTP: other processes write, answer and follow."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from galleria.catalog.table import ProductTable
from galleria.pipelines.build_index import build_index
from tests.drawings import drawing
from tests.serving.conftest import SILENT_STORE

pytestmark = pytest.mark.ray


def put(client, *items):
    answer = client.put("/v1/items", json={"items": list(items)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(seed):
    return base64.b64encode(drawing(seed)).decode()


def first(client, seed, version):
    answer = client.post("/v1/search", json={"image": picture(seed), "k": 1, "min_version": version})
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"][0]["id"]


def test_search_follows_put_and_delete(client):
    written = put(client, {"id": "w/1", "image": picture(601), "title": "Fresh"})
    assert [item["status"] for item in written["items"]] == ["created"]
    assert first(client, 601, written["version"]) == "w/1"
    assert client.get("/v1/items/w%2F1").json()["item"]["title"] == "Fresh"
    deleted = client.delete("/v1/items/w%2F1").json()
    assert first(client, 601, deleted["version"]) != "w/1"
    assert client.get(f"/v1/items/w%2F1?min_version={deleted['version']}").status_code == 404


@pytest.mark.slow
def test_write_is_audited_if_the_client_hangs_up(client, writable):
    """The line belongs to the commit: there is one for exactly those writes that took place."""
    ids = [f"hung-up-{number}" for number in range(60)]
    vector = [-1.0] * 31 + [1.0]
    for number, name in enumerate(ids):
        body = json.dumps({"items": [{"id": name, "vector": vector}]}).encode()
        head = ["PUT /v1/items HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
        head += [f"content-length: {len(body)}", "", ""]
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall("\r\n".join(head).encode() + body)
            time.sleep(number / 400)
    deadline = time.monotonic() + 60
    while True:  # the last of them may still be in work
        version = put(client, {"id": "hung-up-after", "vector": vector})["version"]
        written = {name for name in ids if client.get(f"/v1/items/{name}?min_version={version}").status_code == 200}
        lines = [json.loads(line) for line in Path(writable.audit).read_text().splitlines()]
        audited = [name for line in lines for name in line["ids"] if name in ids]
        if (len(written) > 2 and sorted(audited) == sorted(written)) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for name in (*ids, "hung-up-after"):
        client.delete(f"/v1/items/{name}")

    assert len(written) > 2
    assert sorted(audited) == sorted(written)


@pytest.mark.slow
def test_concurrent_writes_share_commits(client):
    before = client.get("/v1/catalog").json()["version"]
    vectors = [[float(index + row + 1) for index in range(32)] for row in range(40)]

    def write(number):
        return put(client, {"id": f"many-{number}", "vector": vectors[number], "attributes": {"many": True}})["version"]

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(write, range(40)))

    assert max(versions) - before < 40, "requests that come together are written in one commit"
    query = {"vector": vectors[0], "k": 50, "filter": {"many": True}, "min_version": max(versions)}
    found = client.post("/v1/search", json=query).json()["hits"]
    assert {hit["id"] for hit in found} == {f"many-{number}" for number in range(40)}
    for number in range(40):
        assert client.delete(f"/v1/items/many-{number}").status_code == 200


@pytest.mark.slow
def test_last_write_of_sequential_client_wins(client):
    """The gateway follows the table after some milliseconds; a client that is faster loses nothing."""
    old, new = ({"id": "fast", "title": title, "vector": [1.0] * 32} for title in ("old", "new"))
    for _ in range(20):
        for item in (old, new, old):
            version = put(client, item)["version"]
        assert client.get(f"/v1/items/fast?min_version={version}").json()["item"]["title"] == "old"
        assert client.delete("/v1/items/fast").status_code == 200
        version = put(client, old)["version"]
        assert client.get(f"/v1/items/fast?min_version={version}").status_code == 200
    client.delete("/v1/items/fast")


def test_index_is_replaced_during_searches(client, address, writable):
    """No request fails, and every response is of one version."""
    stop = threading.Event()
    failed: list[str] = []

    def ask():
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as own:
            while not stop.is_set():
                answer = own.post("/v1/search", json={"vector": [1.0] * 32, "k": 10})
                if answer.status_code != 200 or len(answer.json()["hits"]) != 10:
                    failed.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            version = put(client, {"id": "swap", "vector": [1.0 + number] * 31 + [0.0]})["version"]
            build_index(ProductTable(writable.table), Path(writable.index))
            follow(client, lambda found, version=version: found["index_version"] >= version)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    client.delete("/v1/items/swap")


def test_damaged_index_keeps_the_last_good_one(client, writable):
    pointer = Path(writable.index) / "current.json"
    good = pointer.read_text()
    version = client.get("/v1/catalog").json()["index_version"]
    pointer.write_text('{"build": "nothing", "manifest": "0"}')
    later = put(client, {"id": "after", "vector": [1.0] * 32})["version"]
    answer = client.post("/v1/search", json={"vector": [1.0] * 32, "k": 1, "min_version": later})
    assert answer.json()["hits"][0]["id"] == "after"
    assert client.get("/v1/catalog").json()["index_version"] == version
    pointer.write_text(good)
    client.delete("/v1/items/after")


def follow(client, reached):
    """Wait until the catalogue has reached a state."""
    for _ in range(600):
        if reached(client.get("/v1/catalog").json()):
            return
    raise AssertionError("the service does not follow its index")


@pytest.mark.slow
def test_silent_store_delays_no_other_client(client, address):
    """All threads that read from the store wait for it, while others search, embed and write."""

    def put_from_store(number):
        item = {"id": f"silent-{number}", "image_uri": f"{SILENT_STORE}/{number}.png"}
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as other:
            return other.put("/v1/items", json={"items": [item]}).json()

    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(put_from_store, number) for number in range(12)]
        rounds = 0
        while not any(reply.done() for reply in waiting):
            put(client, {"id": f"other-{rounds}", "image": picture(700 + rounds)})
            assert client.post("/v1/search", json={"image": picture(1)}).status_code == 200
            embedded = client.post("/v1/embeddings", json={"model": "search", "input": "thing"})
            assert embedded.status_code == 200, embedded.text
            rounds += 1
        assert rounds > 0
        replies = [reply.result() for reply in waiting]
    assert {503} <= {reply["status"] for reply in replies} <= {429, 503}, replies
    for number in range(rounds):
        assert client.delete(f"/v1/items/other-{number}").status_code == 200
