"""Searches over HTTP beside a bare service, LitServe and clip-retrieval's back end; and Serve's ways to take requests.

Vectors: 100,000 clustered ones of length 512 in one HNSW graph, the very same file and effort for everybody but the
sharded service, the ten nearest with a title each; queries are JSON. Ray Serve takes part alone too, with an empty
answer. Pictures: 224 px through EfficientNet-Lite0 and through ResNet50, and the ten nearest; the bare loop runs the
service's own runtime in batches without any service.

Contestants are processes that take turns in one run, on the cores that the clients use too; with pictures each is there
in its own turns only, since another that merely waits slows the bare loop down. Closed load: clients that
ask one request after the other. Open load: requests at random moments, for all alike at half of what the slowest
answered in the first round, timed from the moment at which each was due.

Overload: pictures of 3,000 px, whose decoding is what takes long, at half, twice and ten times what the service does;
latencies are of what was answered with 200. Modes: the same service started with each of Serve's ways to take requests,
asked with bodies of growing size (a small picture with padding inside the file, so that only the way there grows).
"""

import base64
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.catalog import clustered
from benchmarks.load import Ask, Connection, closed_load, open_load
from benchmarks.peers.environments import HOME, install
from benchmarks.results import print_results

LITSERVE = ("litserve==0.2.19",)
CLIP_RETRIEVAL = ("clip-retrieval==2.45.0", "setuptools<81")
MODES = {
    "proxy": {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
    "proxy, throughput": {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "HAProxy, throughput": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "direct, throughput": {},  # what `galleria serve` chooses
}
BODIES = (10_000, 1_000_000, 10_000_000)
"""Bytes of a picture, of the comparison of modes."""

CLIENTS = (1, 8)
LOADS = (0.5, 2, 10)
"""Times what the service can do."""

SIDE = 224
K = 10
READY_SECONDS = 300
Row = dict[str, Any]
Services = Mapping[str, Callable[[], AbstractContextManager[int]]]
"""What starts a contestant, where it does not run yet, and gives its port."""


def main(
    count: Annotated[int, typer.Option(min=1000, help="Vectors in the catalogue.")] = 100_000,
    dimension: Annotated[int, typer.Option(min=8, help="Of a vector.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one measurement.")] = 8,
    workloads: Annotated[str, typer.Option(help="Which, with commas.")] = "vectors,pictures,overload,modes",
    peers: Annotated[bool, typer.Option(help="Whether the others take part.")] = True,
) -> None:
    """Measure, and print one JSON object."""
    HOME.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=HOME.parent) as scratch:
        places = _prepare(Path(scratch) / "small", count, dimension)
        if "vectors" in workloads.split(","):
            found = _vectors(places, count, dimension, rounds, seconds, peers)
            rows += found
            ratios |= _vector_ratios(found)
        if "pictures" in workloads.split(","):
            large = _prepare(Path(scratch) / "large", 10_000, dimension, "resnet50")
            for network, its in (("efficientnet_lite0", places), ("resnet50", large)):
                found = _pictures(network, its, rounds, seconds, peers)
                rows += found
                ratios |= _picture_ratios(network, found)
        if "overload" in workloads.split(","):
            found = _overload(places, rounds, seconds)
            rows += found
            ratios |= _overload_ratios(found, rounds)
        if "modes" in workloads.split(","):
            rows += _modes(places, dimension, rounds, seconds)
    print_results("serving", rows, ratios)


# What is served


class Places(dict[str, Path]):
    """Folders and files: bundle, table, index, sharded, and the peers' own."""


def _prepare(scratch: Path, count: int, dimension: int, network: str = "tf_efficientnet_lite0") -> Places:
    """A bundle with random weights (they do not change how long it takes), a table and its indexes."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet
    import torch

    from galleria.catalog.items import item_key, table_schema, upserts
    from galleria.catalog.table import ProductTable
    from galleria.families.text_guided.task import TextGuidedConfig
    from galleria.index.base import open_build
    from galleria.index.manifest import current_manifest
    from galleria.learn.bundle import save_bundle
    from galleria.learn.encoders.image import ImageEncoderConfig
    from galleria.learn.family import Context, load_family
    from galleria.pipelines.build_index import build_index

    scratch.mkdir()
    places = Places({name: scratch / name for name in ("bundle", "table", "index", "sharded", "peers")})
    torch.manual_seed(0)
    family = load_family("text_guided")
    image = ImageEncoderConfig(architecture=network)
    config = TextGuidedConfig(image=image, size=SIDE, dimension=dimension, slices=())
    context = Context(config, {"product": (), "source": ()}, {})
    bundle = save_bundle(places["bundle"], family, context, family.build(config).eval(), {}, "# For a benchmark\n")

    vectors = clustered(count, dimension, seed=1)
    items = [{"id": f"i{number}", "title": f"Item {number}"} for number in range(count)]
    table = ProductTable.create(places["table"], table_schema(dimension, bundle.hash))
    table = table.append(upserts(items, vectors, bundle.hash))
    build_index(table, places["index"])
    build_index(table, places["sharded"], shards=4)

    shard = current_manifest(places["index"]).shards[0]
    index = faiss.read_index(str(next(places["index"].rglob(shard.vectors))))
    if shard.spec.effort:  # else it is scanned
        graph = shard.spec.kind.startswith("HNSW")
        faiss.ParameterSpace().set_index_parameter(index, "efSearch" if graph else "nprobe", shard.spec.effort)
        if not graph:
            index.make_direct_map()  # clip-retrieval wants the vectors again
    places["peers"].mkdir()
    (places["peers"] / "metadata").mkdir()
    faiss.write_index(index, str(places["peers"] / "image.index"))
    titles = {item_key(item["id"]): item["title"] for item in items}
    in_order = [titles[key] for key in open_build(places["index"], bundle.hash).bases[0].keys.tolist()]
    (places["peers"] / "titles.json").write_text(json.dumps(in_order))
    pa.parquet.write_table(pa.table({"title": in_order}), places["peers"] / "metadata" / "0.parquet")
    return places


# Services


@contextmanager
def _service(
    name: str, command: Sequence[str], port: int, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A process that answers on a port, for as long as the block lasts."""
    with (HOME / f"{name}.stderr").open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=errors, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _answers(port, ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start: see {errors.name}")
                time.sleep(0.1)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, or what it has left behind


def _own(places: Places, index: str = "index", environment: Mapping[str, str] | None = None, *more: str) -> Any:
    port = _free_port()
    command = [sys.executable, "-m", "jobs.serve", "--port", str(port), "--bundle", str(places["bundle"])]
    command += ["--table", str(places["table"]), "--index", str(places[index]), *more]
    return _service(f"own-{index}", command, port, "/readyz", environment)


def _peer(name: str, python: str, *config: str) -> Any:
    port = _free_port()
    folder, *rest = config
    command = [python, "-m", f"benchmarks.peers.{name}", folder, str(port), *rest]
    return _service(name, command, port, "/indices-list" if name == "clip_retrieval" else "/openapi.json")


def _answers(port: int, path: str) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Vectors


def _vectors(places: Places, count: int, dimension: int, rounds: int, seconds: float, peers: bool) -> list[Row]:
    import faiss

    queries = clustered(500, dimension, seed=2)
    _, nearest = faiss.knn(queries, clustered(count, dimension, seed=1), K, metric=faiss.METRIC_INNER_PRODUCT)
    bodies = [{"vector": [round(value, 6) for value in query.tolist()], "k": K} for query in queries]
    asks = {
        "own": [_json("/v1/search", body) for body in bodies],
        "sharded": [_json("/v1/search", body) for body in bodies],
        "serve_alone": [_json("/v1/search", body) for body in bodies],
    }
    with ExitStack() as stack:
        ports = {
            "own": stack.enter_context(_own(places)),
            "sharded": stack.enter_context(_own(places, "sharded", None, "--option", "shards=deployed")),
        }
        if peers:
            litserve = install("litserve", LITSERVE, shared=True)
            for name, python in (
                ("fastapi_faiss", sys.executable),
                ("litserve_faiss", litserve),
                ("clip_retrieval", install("clip_retrieval", CLIP_RETRIEVAL)),
            ):
                ports[name] = stack.enter_context(_peer(name, python, str(places["peers"])))
                asks[name] = [_json("/search", body) for body in bodies]
            wanted = {"modality": "image", "num_images": K, "indice_name": "items"}
            asks["clip_retrieval"] = [
                _json("/knn-service", {"embedding_input": body["vector"], **wanted}) for body in bodies
            ]
        recalls = {name: _recall(port, asks[name], nearest) for name, port in ports.items()}
        ports["serve_alone"] = stack.enter_context(_peer("serve_alone", sys.executable, str(places["peers"])))
        services: Services = {name: partial(_running, port) for name, port in ports.items()}
        return [
            {**row, "recall": recalls.get(row["contestant"])}
            for row in _load("vectors", services, asks, rounds, seconds)
        ]


def _running(port: int) -> AbstractContextManager[int]:
    return nullcontext(port)


def _load(
    workload: str, services: Services, asks: Mapping[str, Sequence[Ask]], rounds: int, seconds: float
) -> list[Row]:
    """Closed load with one and several clients, then open load, in turns."""
    rows: list[Row] = []
    for number in range(rounds):
        for name in _turns(list(services), number):
            with services[name]() as port:
                for clients in CLIENTS:
                    found = closed_load(port, asks[name], clients, seconds)
                    rows.append({"workload": workload, "load": "closed", "contestant": name, "round": number, **found})
    first = [row["per_second"] for row in rows if row["round"] == 0 and row["clients"] == CLIENTS[-1]]
    for number in range(rounds):
        for name in _turns(list(services), number):
            with services[name]() as port:
                found = open_load(port, asks[name], min(first) / 2, seconds)
                rows.append({"workload": workload, "load": "open", "contestant": name, "round": number, **found})
    return rows


def _turns(names: list[str], number: int) -> list[str]:
    return names if number % 2 == 0 else names[::-1]


def _json(path: str, body: Mapping[str, Any]) -> Ask:
    return Ask(path, json.dumps(body).encode())


def _recall(port: int, asks: Sequence[Ask], nearest: Any) -> float:
    """Recall@10 of what a service answers, by the titles; it is warm after that."""
    connection = Connection(port)
    hits = 0
    for ask, wanted in zip(asks, nearest, strict=True):
        status, body = connection.send(ask)
        if status != 200:
            raise SystemExit(f"{ask.path} answered {status}: {body[:300]!r}")
        found = json.loads(body)
        answers = found if isinstance(found, list) else found["hits"]
        titles = [hit.get("title") or hit["item"]["title"] for hit in answers]
        hits += len(set(titles) & {f"Item {place}" for place in wanted.tolist()})
    connection.close()
    return hits / len(asks) / K


def _vector_ratios(rows: Sequence[Row]) -> dict[str, list[float]]:
    alone = {"load": "closed", "clients": 1}
    many = {"load": "closed", "clients": 8}
    ratios: dict[str, list[float]] = {}
    for other in ("fastapi_faiss", "litserve_faiss", "clip_retrieval"):
        short = other.removesuffix("_faiss")
        ratios |= _over(f"vector_p50_over_{short}", rows, "own", other, "p50_ms", alone)
        ratios |= _over(f"vector_rps_over_{short}", rows, "own", other, "per_second", many)
        ratios |= _over(f"vector_open_p99_over_{short}", rows, "own", other, "p99_ms", {"load": "open"})
    return ratios | _over("sharded_p50_over_clip_retrieval", rows, "sharded", "clip_retrieval", "p50_ms", alone)


def _over(name: str, rows: Sequence[Row], one: str, other: str, value: str, where: Row) -> dict[str, list[float]]:
    """One contestant's value over another's in each round; nothing where the other did not take part."""
    found = [row for row in rows if where.items() <= row.items()]
    values = {(row["contestant"], row["round"]): row[value] for row in found}
    rounds = [number for contestant, number in values if contestant == other]
    return {name: [values[one, number] / values[other, number] for number in rounds]} if rounds else {}


# Pictures


def _pictures(network: str, places: Places, rounds: int, seconds: float, peers: bool) -> list[Row]:
    pictures = [_picture(number) for number in range(64)]
    files = places["peers"] / "pictures"
    files.mkdir(exist_ok=True)
    for number, data in enumerate(pictures):
        (files / f"{number}.jpg").write_bytes(data)
    asks = {"own": [_form(data) for data in pictures]}
    bodies = [_json("/search", {"image": base64.b64encode(data).decode()}) for data in pictures]
    starts: dict[str, Callable[[], AbstractContextManager[int]]] = {"own": partial(_own, places)}
    if peers:
        python = install("litserve", LITSERVE, shared=True)
        folder, bundle = str(places["peers"]), str(places["bundle"])
        starts["litserve_pictures"] = partial(_peer, "litserve_pictures", python, folder, bundle)
        asks["litserve_pictures"] = bodies

    @contextmanager
    def warm(name: str) -> Iterator[int]:
        with starts[name]() as port:
            closed_load(port, asks[name], CLIENTS[-1], min(seconds, 3))
            yield port

    rows = [{"workload": "pictures", "contestant": "bare", "round": 0, **_bare(places, seconds)}]
    rows += _load("pictures", {name: partial(warm, name) for name in starts}, asks, rounds, seconds)
    for number in range(1, rounds):
        rows.append({"workload": "pictures", "contestant": "bare", "round": number, **_bare(places, seconds)})
    return [{**row, "network": network} for row in rows]


def _bare(places: Places, seconds: float) -> Row:
    config = (places["bundle"], places["peers"], seconds)
    command = [sys.executable, "-m", "benchmarks.bare_pictures", *map(str, config)]
    found: Row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _picture_ratios(network: str, rows: Sequence[Row]) -> dict[str, list[float]]:
    many = [row for row in rows if row.get("clients") == CLIENTS[-1]]
    bare = [{**row, "load": "closed"} for row in rows if row["contestant"] == "bare"]
    where = {"load": "closed"}
    return _over(f"picture_rps_over_bare_{network}", [*many, *bare], "own", "bare", "per_second", where) | _over(
        f"picture_rps_over_litserve_{network}", many, "own", "litserve_pictures", "per_second", where
    )


def _picture(seed: int) -> bytes:
    """A JPEG of about 20 kB."""
    coarse = np.random.default_rng(seed).integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8)
    return _encoded(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), "JPEG", quality=90)


def _form(data: bytes) -> Ask:
    begin = b'--part\r\nContent-Disposition: form-data; name="image"; filename="query"\r\n\r\n'
    return Ask("/v1/search", begin + data + b"\r\n--part--\r\n", "multipart/form-data; boundary=part")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Overload


def _overload(places: Places, rounds: int, seconds: float) -> list[Row]:
    ask = _form(_encoded(Image.new("RGB", (3000, 3000), (200, 40, 40)), "PNG"))
    rows: list[Row] = []
    with _own(places) as port:
        for number in range(rounds):
            capacity = closed_load(port, [ask], 4, seconds)["per_second"]
            for times in LOADS:
                found = open_load(port, [ask], times * capacity, 2 * seconds)
                rows.append({"workload": "overload", "times": times, "capacity": capacity, "round": number, **found})
    return rows


def _overload_ratios(rows: Sequence[Row], rounds: int) -> dict[str, list[float]]:
    """How long who is let in waits, over half load; and answers a second, over capacity."""
    at = {(row["times"], row["round"]): row for row in rows}
    ratios: dict[str, list[float]] = {}
    for times in LOADS[1:]:
        loaded = [(at[times, number], at[LOADS[0], number]) for number in range(rounds)]
        ratios[f"overload_{times:g}_p99_over_half"] = [row["p99_ms"] / half["p99_ms"] for row, half in loaded]
        answered = [row["per_second"] / row["capacity"] for row, _ in loaded]
        ratios[f"overload_{times:g}_answered_over_capacity"] = answered
    return ratios


# Modes


def _modes(places: Places, dimension: int, rounds: int, seconds: float) -> list[Row]:
    vector = clustered(1, dimension, seed=2)[0].tolist()
    bodies = {"vector": _json("/v1/search", {"vector": vector})} | {
        f"picture of {size:,} bytes": _form(_padded(size)) for size in BODIES
    }
    rows: list[Row] = []
    for number in range(rounds):
        for mode in _turns(list(MODES), number):
            with _own(places, "index", MODES[mode]) as port:
                closed_load(port, list(bodies.values()), CLIENTS[-1], 3)  # it is warm after that
                for body, ask in bodies.items():
                    for clients in CLIENTS:
                        found = closed_load(port, [ask], clients, seconds / 2)
                        rows.append({"workload": "modes", "mode": mode, "body": body, "round": number, **found})
    return rows


def _padded(size: int) -> bytes:
    """A PNG of 32 px with a chunk that readers skip: its decoding takes no longer when it is large."""
    data = _encoded(Image.new("RGB", (32, 32), (200, 40, 40)), "PNG")
    padding = b"paDd" + bytes(size - len(data) - 12)
    chunk = struct.pack(">I", len(padding) - 4) + padding + struct.pack(">I", zlib.crc32(padding))
    return data[:-12] + chunk + data[-12:]  # before the last one


if __name__ == "__main__":
    typer.run(main)
