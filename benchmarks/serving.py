"""Searches over HTTP: our service against minimal and other services, under overload, and in Ray Serve's modes.

    python -m benchmarks.serving

About an hour on two CPU cores. Peers are installed on demand, each into an environment of its own, which needs a
package index; `--no-peers` measures without them. `--workloads vectors` measures one part only.

Contestants are processes that take turns in one run, on the cores that the clients use too. Closed load: each client
sends one request after the other. Open load: requests at random moments, for all contestants at half of the rate of
the slowest in the first round; latency counts from the moment at which a request was due.

- vectors: JSON queries over 100,000 clustered vectors of length 512 in one HNSW graph, the same file and effort for all
  but the sharded service; ten hits with a title each. Ray Serve with an empty response takes part, too.
- pictures: 224 px through EfficientNet-Lite0 and through ResNet50, and the ten nearest. The bare loop runs the
  service's own runtime in batches without any service. A contestant runs in its own turns only, since another one
  that merely waits slows the bare loop down.
- overload: images of 3,000 px, whose decoding takes long, at half, twice and ten times the service's capacity;
  latencies are of responses with status 200.
- modes: the same service in each of Ray Serve's modes of ingress, with bodies of growing size (a small image with
  padding inside the file, so that only the transfer grows).
"""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from benchmarks.http_requests import image_request, json_request, large_image, padded_image, photograph
from benchmarks.load import Connection, Request, closed_load, open_load
from benchmarks.peers.environments import PEERS_FOLDER, install
from benchmarks.results import Row, interleave, matching, print_results, ratio
from benchmarks.served_files import ServedFiles, prepare_files
from benchmarks.services import own_service, peer_service
from benchmarks.vectors import clustered

LITSERVE = ("litserve==0.2.19",)
CLIP_RETRIEVAL = ("clip-retrieval==2.45.0", "setuptools<81")
MODES = {
    "proxy": {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
    "proxy, throughput": {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "HAProxy, throughput": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "direct, throughput": {},  # the default of `galleria serve`
}
BODY_BYTES = (10_000, 1_000_000, 10_000_000)
CLIENTS = (1, 8)
LOAD_FACTORS = (0.5, 2, 10)
"""Rates of the overload workload, in multiples of the service's capacity."""

LARGE_CATALOGUE = 10_000
K = 10
QUERIES = 500
WARM_UP_S = 3
Ratios = dict[str, list[float]]
Services = Mapping[str, Callable[[], AbstractContextManager[int]]]
"""Contestant → starts it where it does not run yet, and yields its port."""


def main(
    count: Annotated[int, typer.Option(min=1000, help="Vectors in the catalogue.")] = 100_000,
    dimension: Annotated[int, typer.Option(min=8, help="Length of a vector.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 8,
    workloads: Annotated[str, typer.Option(help="Workloads, comma-separated.")] = "vectors,pictures,overload,modes",
    peers: Annotated[bool, typer.Option(help="Measure the peers, too.")] = True,
) -> None:
    """Measure, and print one JSON object."""
    PEERS_FOLDER.mkdir(parents=True, exist_ok=True)
    selected = workloads.split(",")
    rows: list[Row] = []
    ratios: Ratios = {}
    with tempfile.TemporaryDirectory(dir=PEERS_FOLDER.parent) as scratch:
        files = prepare_files(Path(scratch) / "small", count, dimension)
        if "vectors" in selected:
            rows += _measure_vectors(files, count, dimension, rounds, seconds, peers)
            ratios |= _vector_ratios(rows)
        if "pictures" in selected:
            large = prepare_files(Path(scratch) / "large", LARGE_CATALOGUE, dimension, "resnet50")
            for network, its_files in (("efficientnet_lite0", files), ("resnet50", large)):
                measured = _measure_pictures(network, its_files, rounds, seconds, peers)
                rows += measured
                ratios |= _picture_ratios(network, measured)
        if "overload" in selected:
            measured = _measure_overload(files, rounds, seconds)
            rows += measured
            ratios |= _overload_ratios(measured)
        if "modes" in selected:
            rows += _measure_modes(files, dimension, rounds, seconds)
    print_results("serving", rows, ratios)


def _measure_load(
    workload: str, services: Services, requests: Mapping[str, Sequence[Request]], rounds: int, seconds: float
) -> list[Row]:
    """Measure closed load with one and several clients, then open load, in turns."""
    rows: list[Row] = []
    for number, name in interleave(services, rounds):
        with services[name]() as port:
            for clients in CLIENTS:
                row = {"workload": workload, "load": "closed", "contestant": name, "round": number}
                rows.append({**row, **closed_load(port, requests[name], clients, seconds)})
    first_round = matching(rows, round=0, clients=CLIENTS[-1])
    rate = min(row["per_second"] for row in first_round) / 2
    for number, name in interleave(services, rounds):
        with services[name]() as port:
            row = {"workload": workload, "load": "open", "contestant": name, "round": number}
            rows.append({**row, **open_load(port, requests[name], rate, seconds)})
    return rows


# Vectors


def _measure_vectors(
    files: ServedFiles, count: int, dimension: int, rounds: int, seconds: float, peers: bool
) -> list[Row]:
    import faiss

    queries = clustered(QUERIES, dimension, seed=2)
    _, nearest = faiss.knn(queries, clustered(count, dimension, seed=1), K, metric=faiss.METRIC_INNER_PRODUCT)
    vectors = [[round(value, 6) for value in query.tolist()] for query in queries]
    with ExitStack() as stack:
        ports = {
            "own": stack.enter_context(own_service(files, files.index)),
            "sharded": stack.enter_context(own_service(files, files.sharded, "--option", "shards=deployed")),
        }
        if peers:
            for name, python in _vector_peers().items():
                ports[name] = stack.enter_context(peer_service(name, python, files.peers))
        requests = {name: [_vector_request(name, vector) for vector in vectors] for name in (*ports, "serve_alone")}
        recalls = {name: _recall(port, requests[name], nearest) for name, port in ports.items()}
        ports["serve_alone"] = stack.enter_context(peer_service("serve_alone", sys.executable, files.peers))
        services: Services = {name: partial(_running, port) for name, port in ports.items()}
        rows = _measure_load("vectors", services, requests, rounds, seconds)
    return [{**row, "recall": recalls.get(row["contestant"])} for row in rows]


def _vector_peers() -> dict[str, str]:
    """Install the peers; return the interpreter of each."""
    return {
        "fastapi_faiss": sys.executable,
        "litserve_faiss": install("litserve", LITSERVE, shared=True),
        "clip_retrieval": install("clip_retrieval", CLIP_RETRIEVAL),
    }


def _vector_request(contestant: str, vector: list[float]) -> Request:
    if contestant == "clip_retrieval":
        query = {"embedding_input": vector, "modality": "image", "num_images": K, "indice_name": "items"}
        return json_request("/knn-service", query)
    own = contestant in ("own", "sharded", "serve_alone")
    return json_request("/v1/search" if own else "/search", {"vector": vector, "k": K})


def _running(port: int) -> AbstractContextManager[int]:
    """Return the port of a service that runs already."""
    return nullcontext(port)


def _recall(port: int, requests: Sequence[Request], nearest: NDArray[Any]) -> float:
    """Return a service's recall@10, by titles; the service is warm afterwards."""
    connection = Connection(port)
    correct = 0
    for request, expected in zip(requests, nearest, strict=True):
        status, body = connection.send(request)
        if status != 200:
            raise SystemExit(f"{request.path} responded {status}: {body[:300]!r}")
        response = json.loads(body)
        hits = response if isinstance(response, list) else response["hits"]
        titles = {hit.get("title") or hit["item"]["title"] for hit in hits}
        correct += len(titles & {f"Item {number}" for number in expected.tolist()})
    connection.close()
    return correct / len(requests) / K


def _vector_ratios(rows: Sequence[Row]) -> Ratios:
    one_client = matching(rows, load="closed", clients=CLIENTS[0])
    many_clients = matching(rows, load="closed", clients=CLIENTS[-1])
    open_loads = matching(rows, load="open")
    ratios: Ratios = {}
    for peer in ("fastapi_faiss", "litserve_faiss", "clip_retrieval"):
        name = peer.removesuffix("_faiss")
        ratios[f"vector_p50_over_{name}"] = ratio(one_client, "p50_ms", [peer])
        ratios[f"vector_rps_over_{name}"] = ratio(many_clients, "per_second", [peer])
        ratios[f"vector_open_p99_over_{name}"] = ratio(open_loads, "p99_ms", [peer])
    sharded = ratio(one_client, "p50_ms", ["clip_retrieval"], own="sharded")
    return {**ratios, "sharded_p50_over_clip_retrieval": sharded}


# Pictures


def _measure_pictures(network: str, files: ServedFiles, rounds: int, seconds: float, peers: bool) -> list[Row]:
    pictures = [photograph(number) for number in range(64)]
    folder = files.peers / "pictures"
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(data)
    requests = {"own": [image_request(data) for data in pictures]}
    services: dict[str, Callable[[], AbstractContextManager[int]]] = {"own": partial(own_service, files, files.index)}
    if peers:
        name, python = "litserve_pictures", install("litserve", LITSERVE, shared=True)
        services[name] = partial(peer_service, name, python, files.peers, str(files.bundle))
        encoded = [base64.b64encode(data).decode() for data in pictures]
        requests[name] = [json_request("/search", {"image": image}) for image in encoded]

    @contextmanager
    def warm(name: str) -> Iterator[int]:
        with services[name]() as port:
            closed_load(port, requests[name], CLIENTS[-1], min(seconds, WARM_UP_S))
            yield port

    rows = [_measure_bare_loop(files, 0, seconds)]
    rows += _measure_load("pictures", {name: partial(warm, name) for name in services}, requests, rounds, seconds)
    rows += [_measure_bare_loop(files, number, seconds) for number in range(1, rounds)]
    return [{**row, "network": network} for row in rows]


def _measure_bare_loop(files: ServedFiles, number: int, seconds: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.bare_pictures", str(files.bundle), str(files.peers), str(seconds)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"workload": "pictures", "contestant": "bare", "round": number, **measured}


def _picture_ratios(network: str, rows: Sequence[Row]) -> Ratios:
    many_clients = matching(rows, load="closed", clients=CLIENTS[-1])
    bare = matching(rows, contestant="bare")
    return {
        f"picture_rps_over_bare_{network}": ratio([*many_clients, *bare], "per_second", ["bare"]),
        f"picture_rps_over_litserve_{network}": ratio(many_clients, "per_second", ["litserve_pictures"]),
    }


# Overload


def _measure_overload(files: ServedFiles, rounds: int, seconds: float) -> list[Row]:
    request = image_request(large_image())
    rows: list[Row] = []
    with own_service(files, files.index) as port:
        for number in range(rounds):
            capacity = closed_load(port, [request], 4, seconds)["per_second"]
            for factor in LOAD_FACTORS:
                measured = open_load(port, [request], factor * capacity, 2 * seconds)
                row = {"workload": "overload", "load_factor": factor, "capacity": capacity, "round": number}
                rows.append({**row, **measured})
    return rows


def _overload_ratios(rows: Sequence[Row]) -> Ratios:
    """Return latencies of admitted requests over those at half load, and responses per second over capacity."""
    half = [{**row, "contestant": "half"} for row in matching(rows, load_factor=LOAD_FACTORS[0])]
    ratios: Ratios = {}
    for factor in LOAD_FACTORS[1:]:
        overload = [{**row, "contestant": "own"} for row in matching(rows, load_factor=factor)]
        ratios[f"overload_{factor:g}_p99_over_half"] = ratio([*overload, *half], "p99_ms", ["half"])
        ratios[f"overload_{factor:g}_answered_over_capacity"] = [
            row["per_second"] / row["capacity"] for row in overload
        ]
    return ratios


# Modes


def _measure_modes(files: ServedFiles, dimension: int, rounds: int, seconds: float) -> list[Row]:
    requests = {"vector": json_request("/v1/search", {"vector": clustered(1, dimension, seed=2)[0].tolist()})} | {
        f"picture of {size:,} bytes": image_request(padded_image(size)) for size in BODY_BYTES
    }
    rows: list[Row] = []
    for number, mode in interleave(MODES, rounds):
        with own_service(files, files.index, environment=MODES[mode]) as port:
            closed_load(port, list(requests.values()), CLIENTS[-1], WARM_UP_S)
            for body, request in requests.items():
                for clients in CLIENTS:
                    measured = closed_load(port, [request], clients, seconds / 2)
                    rows.append({"workload": "modes", "mode": mode, "body": body, "round": number, **measured})
    return rows


if __name__ == "__main__":
    typer.run(main)
