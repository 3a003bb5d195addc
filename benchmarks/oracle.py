"""Writers, readers and kills, against an oracle that knows the catalogue from the service's responses alone.

    python -m benchmarks.oracle --seconds 600

`galleria serve` runs in a process of its own, with a Ray of its own. Writers put and delete items over HTTP, one writer
an item at a time, so that the last acknowledged state of every item is known; a write without a response counts as
uncertain, and its item is not written again. After an acknowledgement they read the item and search for it with
`min_version`. Readers search all the while, and page with a cursor through items that nobody writes. Every few seconds
the replica that writes is killed (SIGKILL), or every fourth time the gateway. At the end every item is read.

"lost" counts acknowledged writes that are not there, "deleted" deletions that came back, "stale" hits that are older
than the version of their response, "phantom" fields that nobody wrote, "wrong" scores, orders or repeated hits, "pages"
cursors that repeat or skip. All must be 0: otherwise the process ends with 1.
"""

import http.client
import json
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from benchmarks.oracle_state import KeyHistory, Oracle
from benchmarks.results import print_results
from benchmarks.served_files import prepare_files
from benchmarks.services import own_service
from benchmarks.vectors import clustered

STATIC_ITEMS = 2_000
DIMENSION = 32
KEYS_A_WRITER = 8
DELETIONS = 0.3
"""Part of the writes that delete."""

PAGES, PAGE = 5, 10
TIMEOUT_S = 60
REFUSED = -1
"""Status of a request for which no connection could be opened."""

BACKOFF_S = (0.05, 0.3)
GATEWAY_EVERY = 4
"""Of so many kills one is of the gateway."""

ACKNOWLEDGED_BETWEEN_KILLS = 20
"""Writes without which a replica is not killed, since the one before it is still being replaced."""

RECOVERY_S = 120


class Client:
    """A persistent connection that opens again after an error."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and body of a response; status 0 where there was none, or `REFUSED` where nothing was sent."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        except ConnectionRefusedError:
            self._connection.close()
            return REFUSED, {}
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            return 0, {}


class Load:
    """The clients of one run.

    Args:
        oracle: that they tell and check.
        port: of the service.
        seed: of everything random.
    """

    def __init__(self, oracle: Oracle, port: int, seed: int) -> None:
        self._oracle = oracle
        self._port = port
        self._seed = seed
        self._ended = threading.Event()
        self._static = clustered(STATIC_ITEMS, DIMENSION, seed=1)
        self.threads: list[threading.Thread] = []

    def start(self, count: int, run: Callable[[Client, random.Random, int], None]) -> None:
        """Start clients that repeat `run(client, chance, number)`."""

        def repeat(number: int) -> None:
            client, chance = Client(self._port), random.Random(f"{self._seed} {run.__name__} {number}")
            while not self._ended.is_set():
                run(client, chance, number)

        self.threads += [threading.Thread(target=repeat, args=(number,)) for number in range(count)]
        for thread in self.threads[-count:]:
            thread.start()

    def end(self) -> None:
        """Stop all clients."""
        self._ended.set()
        for thread in self.threads:
            thread.join()

    def write(self, client: Client, chance: random.Random, writer: int) -> None:
        """Put or delete an item of this writer, and read it."""
        oracle = self._oracle
        mine = [name for name in self._names(writer) if not oracle.histories[name].uncertain]
        while len(mine) < KEYS_A_WRITER:
            mine.append(f"w{writer}-{len(self._names(writer))}")
            oracle.histories[mine[-1]] = KeyHistory()
        item_id = chance.choice(mine)
        history = oracle.histories[item_id]
        number, deletes = history.last + 1, chance.random() < DELETIONS
        history.last = number
        status, response = self._send_write(client, item_id, number, deletes)
        oracle.count(f"write {status}")
        if status == 200 and response["items"][0]["status"] == "rejected":
            oracle.violate("wrong", f"{item_id} was rejected: {response}")
        elif status == 200:
            oracle.acknowledge(item_id, number, deletes, response["version"])
            self._read_back(client, item_id, response["version"])
        else:
            if status not in (429, REFUSED):  # it may hold
                history.uncertain[number] = deletes
            time.sleep(chance.uniform(*BACKOFF_S))

    def search(self, client: Client, chance: random.Random, reader: int) -> None:
        """Search all items, or page through those that nobody writes."""
        query = np.random.default_rng(chance.getrandbits(32)).standard_normal(DIMENSION).astype(np.float32)
        query /= np.linalg.norm(query)
        if reader % 4 == 0 and chance.random() < 0.25:
            self._page(client, query)
            return
        status, response = client.send("POST", "/v1/search", {"vector": query.tolist(), "k": 20})
        self._oracle.count(f"search {status}")
        if status == 200:
            self._oracle.check_hits(response["hits"], query, response["catalog"]["version"])
        else:
            time.sleep(chance.uniform(*BACKOFF_S))

    def read_all(self) -> int:
        """Read every item that was written; return how many exist."""
        client = Client(self._port)
        return sum(self._read(client, item_id, self._oracle.newest) for item_id in list(self._oracle.histories))

    def _names(self, writer: int) -> list[str]:
        return [name for name in list(self._oracle.histories) if name.startswith(f"w{writer}-")]

    def _send_write(self, client: Client, item_id: str, number: int, deletes: bool) -> tuple[int, dict[str, Any]]:
        if deletes:
            return client.send("DELETE", f"/v1/items/{quote(item_id)}")
        vector = self._oracle.vector(item_id, number).tolist()
        fields = {"owner": item_id, "number": number}
        item = {"id": item_id, "vector": vector, "title": f"{item_id} {number}", "attributes": fields}
        return client.send("PUT", "/v1/items", {"items": [item]})

    def _read_back(self, client: Client, item_id: str, version: int) -> None:
        """Read an item whose write was acknowledged: only its writer changes it."""
        self._read(client, item_id, version)
        number, deleted = self._oracle.histories[item_id].acknowledged
        query = self._oracle.vector(item_id, number).tolist()
        body = {"vector": query, "k": 3, "filter": {"owner": item_id}, "min_version": version}
        status, response = client.send("POST", "/v1/search", body)
        self._oracle.count(f"search of own {status}")
        if status == 200:
            titles = [hit["item"]["title"] for hit in response["hits"]]
            if titles != ([] if deleted else [f"{item_id} {number}"]):
                self._oracle.violate("lost", f"a search for {item_id} {number} ({deleted=}) found {titles}")

    def _read(self, client: Client, item_id: str, version: int) -> bool:
        """Read and check an item, until there is a response; return whether it exists."""
        deadline = time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline:
            status, response = client.send("GET", f"/v1/items/{quote(item_id)}?min_version={version}")
            self._oracle.count(f"item {status}")
            if status in (200, 404):
                self._oracle.check_item(item_id, status, response)
                return status == 200
            time.sleep(BACKOFF_S[1])
        self._oracle.violate("lost", f"{item_id} could not be read in {RECOVERY_S} s")
        return False

    def _page(self, client: Client, query: NDArray[np.float32]) -> None:
        """Page through the items that nobody writes, and compare with their exact order."""
        body: dict[str, Any] = {"vector": query.tolist(), "k": PAGE, "filter": {"title": {"$prefix": "Item "}}}
        scores: list[float] = []
        ids: list[str] = []
        for _ in range(PAGES):
            status, response = client.send("POST", "/v1/search", body)
            self._oracle.count(f"page {status}")
            if status != 200:
                return
            ids += [hit["id"] for hit in response["hits"]]
            scores += [hit["score"] for hit in response["hits"]]
            body["after"] = response["next"]
        expected = np.sort(self._static @ query)[::-1][: len(scores)]
        if len(set(ids)) < len(ids) or not np.allclose(scores, expected, atol=1e-5):
            self._oracle.violate("pages", f"{ids} {scores}")


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load.")] = 600,
    writers: Annotated[int, typer.Option(min=1, help="Clients that write.")] = 32,
    readers: Annotated[int, typer.Option(min=0, help="Clients that search.")] = 32,
    seed: Annotated[int, typer.Option(help="Of what the clients do, and of the kills.")] = 0,
    kill_every: Annotated[float, typer.Option(min=0.5, help="Mean seconds between two kills.")] = 5,
) -> None:
    """Run the clients and the kills, and print one JSON object."""
    oracle = Oracle(DIMENSION)
    with tempfile.TemporaryDirectory() as scratch:
        files = prepare_files(Path(scratch) / "files", STATIC_ITEMS, DIMENSION)
        with own_service(files, files.index, "--writable") as port:
            load = Load(oracle, port, seed)
            load.start(writers, load.write)
            load.start(readers, load.search)
            kills = _kill_replicas(oracle, seconds, kill_every, random.Random(seed))
            load.end()
            existing = load.read_all()
            _check_count(oracle, Client(port), existing)
    row = {
        "seconds": seconds,
        "writers": writers,
        "readers": readers,
        "seed": seed,
        "kills": kills,
        "acknowledged": sum(len(history.versions) for history in oracle.histories.values()),
        "uncertain": sum(len(history.uncertain) for history in oracle.histories.values()),
        "requests": dict(sorted(oracle.counts.items())),
        "violations": dict.fromkeys(("lost", "deleted", "stale", "phantom", "wrong", "pages"), 0) | oracle.violations,
        "examples": oracle.examples,
    }
    print_results("oracle", [row], {})
    if oracle.violations:
        raise SystemExit(1)


def _kill_replicas(oracle: Oracle, seconds: float, every: float, chance: random.Random) -> dict[str, int]:
    """Kill replicas of the service, which is a child of this process, for so many seconds; return how many.

    Each time once writes are acknowledged again: where replicas start slowly, fewer are killed.
    """
    kills = {"Writer": 0, "Gateway": 0}
    deadline = time.monotonic() + seconds
    acknowledged = 0
    while time.monotonic() < deadline:
        time.sleep(max(0, min(deadline - time.monotonic(), every * chance.uniform(0.5, 1.5))))
        if oracle.counts["write 200"] < acknowledged + ACKNOWLEDGED_BETWEEN_KILLS:
            continue
        acknowledged = oracle.counts["write 200"]
        kind = "Gateway" if (sum(kills.values()) + 1) % GATEWAY_EVERY == 0 else "Writer"
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if f"ServeReplica:galleria:{kind}" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    kills[kind] += 1
    return kills


def _check_count(oracle: Oracle, client: Client, existing: int) -> None:
    status, response = client.send("GET", "/v1/catalog")
    if status != 200 or response["count"] != STATIC_ITEMS + existing:
        oracle.violate("wrong", f"the catalogue has {response.get('count')} items, not {STATIC_ITEMS + existing}")


if __name__ == "__main__":
    typer.run(main)
