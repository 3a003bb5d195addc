"""Bodies of responses."""

from typing import Any, Literal

from pydantic import BaseModel

from galleria.pipelines.releases import Alias
from galleria.serving.config import Kind


class Item(BaseModel):
    """The fields of an item; `image` is the path of its picture."""

    title: str | None
    text: str | None
    category: list[str] | None
    product_id: str | None
    source: str | None
    attributes: dict[str, str | bool | int | float] | None
    image: str


class Hit(BaseModel):
    """One result.

    `score` is the cosine of the angle between query and item; with level weights the sum of the levels' cosines, each
    times its weight.
    """

    id: str
    score: float
    item: Item


class SearchStages(BaseModel):
    """Duration of each stage, in milliseconds."""

    read_ms: float
    embed_ms: float
    search_ms: float
    fetch_ms: float


class ModelVersion(BaseModel):
    """The bundle that computed a response, and its release where it was published as one."""

    family: str
    hash: str
    release: str | None = None


class CatalogVersion(BaseModel):
    """The version of the product table that was read, and its number of items.

    `release`: that the table belongs to, where it was published as one. Versions of another are not comparable.
    """

    version: int
    count: int
    release: str | None = None


class NamedModelVersion(ModelVersion):
    """A model's version, with its name in URLs."""

    name: str


class ShardCount(BaseModel):
    """Shards of the index: how many were searched, and how many there are."""

    searched: int
    total: int


class SearchResponse(BaseModel):
    """Hits, best first; `predicted` is what else the model predicts for the query, such as its category on every level.

    `next` is what a request for the hits behind the last one sends as `after`; null where there are none.

    `partial`: only some of the index's shards could be searched; there may be better hits in the others. `match_score`
    is the score of a true match: one in twenty queries for a product that is not in the catalogue still finds a hit of
    that score. `no_match`: no hit reaches it. Both are null where the model was not evaluated for queries of this kind,
    or where less than half of the queries for a product that is in the catalogue find a hit of that score.
    """

    hits: list[Hit]
    next: str | None = None
    predicted: dict[str, Any] = {}
    match_score: float | None = None
    no_match: bool | None = None
    partial: bool
    shards: ShardCount
    stages: SearchStages
    latency_ms: float
    model: ModelVersion
    catalog: CatalogVersion


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] = []


class SearchOutcome(BaseModel):
    """The result of one search of a batch: its response or its problem, as if it had been sent alone."""

    status: int
    answer: SearchResponse | None = None
    problem: Problem | None = None


class BatchSearchResponse(BaseModel):
    """The results of the searches of a batch, in its order."""

    outcomes: list[SearchOutcome]
    latency_ms: float


ItemStatus = Literal["created", "updated", "unchanged", "deleted", "absent", "rejected"]


class ItemResult(BaseModel):
    """The result of writing one item; `problem` says why it was rejected."""

    id: str | None
    status: ItemStatus
    problem: str | None = None


class WriteResponse(BaseModel):
    """The results of a write, in the request's order; searches see it from `version` on.

    `releases`: those whose catalogues have it, where the service follows aliases; `version` is of the first.
    """

    version: int
    releases: list[str] = []
    items: list[ItemResult]
    latency_ms: float


class ShardStatus(BaseModel):
    """One shard of the index: its kind, its vectors, and the newer ones outside it, which are searched exactly."""

    kind: str
    indexed: int
    unindexed: int


class CatalogResponse(CatalogVersion):
    """The catalogue: its version and items, the bundle of its vectors, and the state of its index.

    `writable`: the service accepts writes, from clients whose key has the role "write".
    """

    writable: bool
    bundle_hash: str
    dimension: int
    index_version: int
    unindexed: int
    shards: list[ShardStatus]


class PredictionStages(BaseModel):
    """Duration of each stage, in milliseconds; `predict_ms` includes queueing, decoding and inference."""

    read_ms: float
    predict_ms: float


class PredictionResponse(BaseModel):
    """A model's prediction for a picture or a video; its family decides what `result` holds."""

    result: dict[str, Any]
    model: NamedModelVersion
    stages: PredictionStages
    latency_ms: float


class ItemResponse(BaseModel):
    """One item; `vector` is its embedding, where the request asks for it."""

    id: str
    item: Item
    vector: list[float] | None = None
    catalog: CatalogVersion


class ModelDetails(NamedModelVersion):
    """A model in use: its kind, its inputs, and the metrics that it was saved with.

    One that searches has vectors of a `dimension`, which can be truncated to each of `slices`, and a search may weight
    so many `levels` of its category tree. `runtime` runs the network on pictures.
    """

    kind: Kind
    inputs: list[str]
    dimension: int | None
    slices: list[int]
    levels: int
    metrics: dict[str, float]
    runtime: Literal["torch", "onnx"]


class AliasesResponse(BaseModel):
    """The release, and perhaps a canary, that each alias resolves to."""

    aliases: dict[str, Alias]


class ListedModel(BaseModel):
    """A model as OpenAI's clients expect it in a list."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "galleria"


class ModelsResponse(BaseModel):
    """The models in use; `object` and `data` are for OpenAI's clients."""

    models: list[ModelDetails]
    object: Literal["list"] = "list"
    data: list[ListedModel]


class StatusResponse(BaseModel):
    """The state of the service."""

    status: str


class DegradedComponent(BaseModel):
    """A component that works less well than it should, and why."""

    component: str
    problem: str


class ReadyResponse(StatusResponse):
    """The service answers. `degraded`: what works less well than it should; responses are right all the same."""

    degraded: list[DegradedComponent]


def milliseconds(seconds: float) -> float:
    """Convert seconds to milliseconds, rounded to the microsecond."""
    return round(seconds * 1000, 3)
