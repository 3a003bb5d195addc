"""A small catalogue, small bundles, the service over HTTP on the shared Ray, and stand-ins for its two seams."""

import asyncio
import math
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS, table_schema, upserts
from galleria.catalog.key_map import Entry
from galleria.catalog.live import FollowerStatus, LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import WriteResult
from galleria.index.filters import Filter
from galleria.index.shard import Neighbor
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from galleria.media.limits import Limits
from galleria.pipelines.build_index import build_index
from galleria.serving.audit import AuditLog, Origin
from galleria.serving.config import SEARCH, BundleLocation, CatalogLocation, Kind, ServiceConfig
from galleria.serving.gateway import make_served_release
from galleria.serving.http.application import make_app
from galleria.serving.http.keys import Keys
from galleria.serving.http.metrics import Metrics
from galleria.serving.http.services import make_services
from galleria.serving.inference.client import ModelBackend, ModelClient
from galleria.serving.inference.server import ModelServer
from galleria.serving.inference.types import Description, Prediction
from galleria.serving.resolve import ReleaseRef
from galleria.serving.retrieval.searcher import Catalog, LocalSearcher, SearchResult
from galleria.serving.retrieval.writer import CatalogPut, LocalWriter, WriterStatus
from galleria.serving.schemas.responses import ModelVersion, ShardStatus
from galleria.serving.services.traffic import LiveTraffic
from galleria.serving.traffic_split import TrafficSplit
from tests.drawings import drawing, product_rows
from tests.ports import free_port
from tests.serving.bundles import presented, random_bundle

ODD_IDS = ("schuh/größe 42", "👟", "100%25?&#=+;", "a/image", "日本 ' \" \\ <b>", "-".join(["long"] * 100))
LIMITS = Limits(image_bytes=200_000, image_pixels=1_000_000, video_bytes=500_000, text_characters=100, results=50)
MODELS = {"mood": "aesthetic_emotion", "party": "video_event"}
"""Families of the service's other models, by name."""


class Catalogue(NamedTuple):
    config: ServiceConfig
    bundle: Bundle
    ids: list[str]
    images: list[bytes]
    vectors: NDArray[np.float32]


def embed(bundle: Bundle, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    task = bundle.task()
    examples = [bundle.family.example(row, bundle.context, None) for row in rows]
    (vectors,) = task.predict(stack(examples)).values()
    return vectors.numpy()


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32], bundle_hash: str
) -> ProductTable:
    table = ProductTable.create(path, table_schema(vectors.shape[1], bundle_hash))
    return table.append(upserts(rows, vectors, bundle_hash))


@pytest.fixture(scope="session")
def catalogue(bundle: Bundle, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The drawn gallery, some items with odd ids, and one without a picture."""
    folder = tmp_path_factory.mktemp("catalogue")
    items = [row for row in rows if row["role"] == "gallery"]
    items += [{**items[0], "id": name, "image": drawing(900 + index)} for index, name in enumerate(ODD_IDS)]
    vectors = embed(bundle, [{"image": item["image"]} for item in items])
    items[1] = {**items[1], "attributes": {"colour": "red", "price": 20}}
    bare = {"id": "bare"}
    vectors = np.concatenate([vectors, -vectors[:1]])
    table = write_table(folder / "table.lance", [*items, bare], vectors, bundle.hash)
    build_index(table, folder / "index")
    config = ServiceConfig(
        bundle=str(bundle.path),
        table=str(folder / "table.lance"),
        index=str(folder / "index"),
        limits=LIMITS,
        runtime="torch",  # an export takes seconds
        target_latency_s=30,  # this machine is busy with tests
    )
    return Catalogue(
        config, bundle, [*(item["id"] for item in items), "bare"], [item["image"] for item in items], vectors
    )


class Tree(NamedTuple):
    bundle: Bundle
    service: FastAPI
    vectors: NDArray[np.float32]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A catalogue of drawn products behind a model of their category tree, served in this process."""
    folder = tmp_path_factory.mktemp("tree")
    rows = product_rows()
    bundle = random_bundle("category_tree", folder / "bundle", rows)
    vectors = np.stack([presented(bundle, {"image": row["image"]})["embedding"] for row in rows]).astype(np.float32)
    table = write_table(folder / "table.lance", rows, vectors, bundle.hash)
    build_index(table, folder / "index")
    config = ServiceConfig(
        bundle=str(bundle.path),
        table=str(folder / "table.lance"),
        index=str(folder / "index"),
        limits=LIMITS,
        runtime="torch",
    )
    return Tree(bundle, local_app(config, {SEARCH: bundle}), vectors)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles of `MODELS`, by name."""
    folder = tmp_path_factory.mktemp("models")
    return {name: random_bundle(family, folder / name) for name, family in MODELS.items()}


@pytest.fixture(scope="package")
def writable(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> ServiceConfig:
    """The same catalogue in a copy that may be written to."""
    folder = tmp_path_factory.mktemp("writable")
    table = shutil.copytree(catalogue.config.table, folder / "table.lance")
    index = shutil.copytree(catalogue.config.index, folder / "index")
    paths = {"table": str(table), "index": str(index), "audit": str(folder / "audit.jsonl")}
    return catalogue.config.model_copy(update={**paths, "writable": True})


SILENT_STORE = "s3://silent/pictures"
"""A store that the running service may read, whose server accepts connections and never responds."""


@pytest.fixture(scope="package")
def silent_store() -> Iterator[str]:
    """`SILENT_STORE` with the address of its server."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        store = SILENT_STORE.replace("//", "//id:password@")
        yield f"{store}?scheme=http&endpoint_override={address}&region=us-east-1"


@pytest.fixture(scope="package")
def address(ray_instance: None, writable: ServiceConfig, models: dict[str, Bundle], silent_store: str) -> Iterator[str]:
    """The service over HTTP; ends with the last test of this folder."""
    from ray import serve

    from galleria.serving.app import start

    port = free_port()
    paths = {name: str(bundle.path) for name, bundle in models.items()}
    start(writable.model_copy(update={"models": paths, "stores": (silent_store,)}), port=port)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="package")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as opened:
        yield opened


class FakeModel:
    """Returns `outcome` for every row, or raises it."""

    def __init__(
        self,
        outcome: Prediction | Exception,
        bundle_hash: str = "h1",
        kind: Kind = "search",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.outcome = outcome
        self.metrics = metrics or {"R@1": 0.5}
        self.bundle_hash = bundle_hash
        self.kind = kind
        self.rows: list[Mapping[str, Any]] = []

    async def predict(self, row: Mapping[str, Any], location: BundleLocation) -> Prediction:
        self.rows.append(row)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def describe(self, location: BundleLocation) -> Description:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        dimension = 2 if self.kind == "search" else None
        return Description(self.kind, "fake", self.bundle_hash, ("image",), self.metrics, dimension)

    def load(self, location: BundleLocation) -> None:
        pass


class LocalModel:
    """A `ModelServer` in this process, without its queue."""

    def __init__(self, server: ModelServer) -> None:
        self.describe = server.describe
        self.load = server.load
        self.server = server

    async def predict(self, row: Mapping[str, Any], location: BundleLocation) -> Prediction:
        return (await self.server.predict_rows([row], location))[0]


class FakeState(NamedTuple):
    version: int = 7
    count: int = 2
    shard_count: int = 1
    key_map: Mapping[int, Entry] = {}


class FakeSearcher:
    """Two items in two dimensions, and the catalogue that holds them."""

    state = FakeState()
    status = FollowerStatus(0, 0, 0)
    unindexed = 0
    dimension = 2
    vectors = np.eye(2, dtype=np.float32)
    rows = tuple(
        {"id": name, "image": image, **dict.fromkeys(FIELDS), "title": name.upper()}
        for name, image in (("a", drawing(1)), ("b", b"<svg onload='alert(1)'/>"))
    )

    refreshed_at = math.inf

    def wait_for(self, version: int, timeout_s: float) -> FakeState | None:
        return self.state if version <= self.state.version else None

    @property
    def catalog(self) -> Catalog:
        return self

    async def search(
        self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: Any, after: Any = None
    ) -> SearchResult:
        scores = self.vectors @ vector
        return SearchResult([Neighbor(int(key), float(scores[key])) for key in np.argsort(-scores)[:k]], 1, state)

    async def shards(self) -> list[ShardStatus]:
        return [ShardStatus(kind="Flat", indexed=2, unindexed=0)]

    def fetch(self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: Any = None) -> list[dict[str, Any]]:
        return [self.rows[key] for key in keys]

    def contents(self, keys: Sequence[int], state: Any = None) -> list[tuple[int, int]]:
        return [(key, key) for key in keys]

    def item(self, item_id: str, columns: Sequence[str] = FIELDS, state: Any = None) -> Mapping[str, Any] | None:
        return next(
            ({"id": item_id, **{name: row[name] for name in columns}} for row in self.rows if row["id"] == item_id),
            None,
        )


class OneTableWriter:
    """Writes to one table, wherever a write is meant for."""

    def __init__(self, writer: LocalWriter) -> None:
        self.writer = writer

    async def put(self, puts: Sequence[CatalogPut], origin: Origin) -> list[WriteResult]:
        return [await self.writer.put(put.items, put.vectors, origin) for put in puts]

    async def delete(
        self, locations: Sequence[CatalogLocation], ids: Sequence[str], origin: Origin
    ) -> list[WriteResult]:
        return [await self.writer.delete(ids, origin) for _ in locations]

    async def status(self, locations: Sequence[CatalogLocation]) -> list[WriterStatus]:
        return [self.writer.status() for _ in locations]

    def close(self) -> None:
        self.writer.close()


def fake_app(
    model: FakeModel,
    searcher: Any = None,
    max_concurrent_queries: int = 4,
    max_concurrent_videos: int = 2,
    proxied: bool = False,
    writer: Any = None,
    keys: Keys | None = None,
    limits: Limits = LIMITS,
    cors_origins: tuple[str, ...] = (),
    canary: FakeModel | None = None,
    predict_timeout_s: float = 30,
    **others: FakeModel,
) -> FastAPI:
    """The gateway with a search, and other models by name; all were started for bundle "h1".

    A canary, of bundle "h2" in release "search@2" with a catalogue of its own, gets half of the searches.
    """
    config = ServiceConfig(
        bundle="b",
        table="t",
        index="i",
        limits=limits,
        threads=1,
        max_concurrent_queries=max_concurrent_queries,
        max_concurrent_videos=max_concurrent_videos,
        predict_timeout_s=predict_timeout_s,
        cors_origins=cors_origins,
    )
    fakes = {SEARCH: model, **others}
    metrics = Metrics()
    models = {
        name: model_client(
            config, name, ModelVersion(family="fake", hash="h1"), fake, partial(metrics.count_batch, name)
        )
        for name, fake in fakes.items()
    }
    served = {name: make_served_release(config, model) for name, model in models.items()}
    location = CatalogLocation("t", "i", "h1")
    served[SEARCH] = make_served_release(config, models[SEARCH], searcher or FakeSearcher(), location)
    traffic = {name: LiveTraffic(TrafficSplit(release)) for name, release in served.items()}
    if canary is not None:
        second = model_client(config, SEARCH, ModelVersion(family="fake", hash="h2", release="search@2"), canary)
        other = FakeSearcher()
        other.state = FakeState(version=3)
        release = make_served_release(config, second, other, CatalogLocation("t2", "i2", "h2"))
        traffic[SEARCH] = LiveTraffic(TrafficSplit(served[SEARCH], release, 0.5))
    return make_app(make_services(config, traffic, metrics=metrics, writer=writer), proxied, keys)


OPENED = ExitStack()
"""What `local_app` has opened."""


@pytest.fixture(autouse=True)
def _close_opened() -> Iterator[None]:
    """Close what a test opens itself; services of fixtures of a wider scope were opened before it."""
    wider = OPENED.pop_all()
    yield
    OPENED.close()
    OPENED.push(wider)


def local_app(config: ServiceConfig, bundles: Mapping[str, Bundle], keys: Keys | None = None) -> FastAPI:
    """The gateway with real models and the real catalogue, all in this process."""
    traffic = {}
    writer = None
    for name, bundle in bundles.items():
        backend = LocalModel(ModelServer(config, name, reference_of(bundle)))
        model = model_client(
            config, name, ModelVersion(family=bundle.family.name, hash=bundle.hash), backend, path=bundle.path
        )
        searcher = location = None
        if name == SEARCH:
            searcher = LocalSearcher(LiveCatalog(config.table, config.index, bundle.hash), config.threads)
            OPENED.callback(searcher.catalog.close)
            searcher.catalog.follow()
            if config.writable:
                location = catalog_of(config, bundle)
                local_writer = LocalWriter(location, 7, AuditLog(config.audit))
                OPENED.callback(local_writer.close)
                writer = OneTableWriter(local_writer)
        traffic[name] = LiveTraffic(TrafficSplit(make_served_release(config, model, searcher, location)))
    return make_app(make_services(config, traffic, writer=writer), proxied=False, keys=keys)


ORIGIN = Origin("request", "key", "127.0.0.1", "PUT")
"""Of writes that no request makes."""


def location_of(bundle: Bundle) -> BundleLocation:
    return BundleLocation(str(bundle.path), bundle.hash)


def reference_of(bundle: Bundle, catalog: CatalogLocation | None = None) -> TrafficSplit[ReleaseRef]:
    return TrafficSplit(
        ReleaseRef(ModelVersion(family=bundle.family.name, hash=bundle.hash), location_of(bundle), catalog)
    )


def model_client(
    config: ServiceConfig,
    name: str,
    model: ModelVersion,
    backend: ModelBackend,
    count_batch: Callable[[int], None] | None = None,
    path: Path = Path("bundle"),
) -> ModelClient:
    location = BundleLocation(str(path), model.hash)
    return ModelClient(name, model, location, backend, config.predict_timeout_s, config.video_timeout_s, count_batch)


def catalog_of(config: ServiceConfig, bundle: Bundle) -> CatalogLocation:
    return CatalogLocation(config.table, config.index, bundle.hash)


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    return asyncio.run(_send(app, [(method, path, options)]))[0]


def ask_together(app: FastAPI, posts: Sequence[tuple[str, Mapping[str, Any]]]) -> list[httpx.Response]:
    """Answers to requests that are all under way at a time."""
    return asyncio.run(_send(app, [("POST", path, options) for path, options in posts]))


async def _send(app: FastAPI, requests: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[httpx.Response]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        sent = (client.request(method, path, **options) for method, path, options in requests)
        return await asyncio.gather(*sent)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get_list("x-request-id", split_commas=True) == [answer.json()["request_id"]]
    body = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:galleria:problem:")
    assert body["title"]
    assert body["detail"]
    return body
