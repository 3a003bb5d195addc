"""What the service answers."""

from typing import Any, Literal

from pydantic import BaseModel

from galleria.serving.config import Kind


class Item(BaseModel):
    """What the catalogue says of a picture; `image` is the path that answers its bytes."""

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
    """Where the time went, in milliseconds."""

    read_ms: float
    embed_ms: float
    search_ms: float
    fetch_ms: float


class ModelVersion(BaseModel):
    """The bundle that made an answer, and its release where it was published as one."""

    family: str
    hash: str
    release: str | None = None


class CatalogVersion(BaseModel):
    """The version of the product table that an answer was read from, and its number of items."""

    version: int
    count: int


class NamedModelVersion(ModelVersion):
    """The same with the name that addresses call it by."""

    name: str


class ShardCount(BaseModel):
    """Shards of the index: how many were searched, and how many there are."""

    searched: int
    total: int


class SearchResponse(BaseModel):
    """Hits, best first; `predicted` is what else the model says of the query, such as its category on every level.

    `partial` says that only some of the index's shards could be searched: there may be better hits in the others.
    `match_score` is what a hit of the right product scores, where the model was measured for queries of this kind: one
    in twenty queries for a product that is not there finds something that scores as much. `no_match` says that nothing
    was found that does.
    """

    hits: list[Hit]
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
    """One search of several: its answer, or the problem that it met, as it would have been answered alone."""

    status: int
    answer: SearchResponse | None = None
    problem: Problem | None = None


class BatchSearchResponse(BaseModel):
    """What became of the searches of a request, in its order."""

    outcomes: list[SearchOutcome]
    latency_ms: float


ItemStatus = Literal["created", "updated", "unchanged", "deleted", "absent", "rejected"]


class ItemResult(BaseModel):
    """What became of one item; `problem` says why it was rejected."""

    id: str | None
    status: ItemStatus
    problem: str | None = None


class WriteResponse(BaseModel):
    """What became of the items of a request, in its order; from `version` on searches find them so."""

    version: int
    items: list[ItemResult]
    latency_ms: float


class ShardStatus(BaseModel):
    """One shard of the index: its kind, its vectors, and those that are newer than it, which are searched exactly."""

    kind: str
    indexed: int
    unindexed: int


class CatalogResponse(CatalogVersion):
    """The catalogue: its version and items, the bundle of its vectors, and how far the index follows.

    `writable` says whether the service writes to it, for those whose key may.
    """

    writable: bool
    bundle_hash: str
    dimension: int
    index_version: int
    unindexed: int
    shards: list[ShardStatus]


class PredictionStages(BaseModel):
    """Where the time went, in milliseconds; `predict_ms` holds waiting, decoding and the network."""

    read_ms: float
    predict_ms: float


class PredictionResponse(BaseModel):
    """What a model says of a picture or a video; its family decides what `result` holds."""

    result: dict[str, Any]
    model: NamedModelVersion
    stages: PredictionStages
    latency_ms: float


class ItemResponse(BaseModel):
    """One item."""

    id: str
    item: Item
    catalog: CatalogVersion


class ModelDetails(NamedModelVersion):
    """A model in use: what it is asked for, what it reads, and scores it was saved with.

    One that searches has vectors of a `dimension`, of which the first of each of `slices` serve alone, and a search may
    weigh so many `levels` of its category tree. `runtime` is what pictures go through.
    """

    kind: Kind
    inputs: list[str]
    dimension: int | None
    slices: list[int]
    levels: int
    metrics: dict[str, float]
    runtime: Literal["torch", "onnx"]


class AliasAnswer(BaseModel):
    """The release that a model's name stands for, and another that answers a share of the requests, if any."""

    release: str
    canary: str | None = None
    canary_weight: float = 0


class AliasesResponse(BaseModel):
    """All aliases by name."""

    aliases: dict[str, AliasAnswer]


class ListedModel(BaseModel):
    """A model as OpenAI's clients list it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "galleria"


class ModelsResponse(BaseModel):
    """The models in use; `object` and `data` are what OpenAI's clients look for."""

    models: list[ModelDetails]
    object: Literal["list"] = "list"
    data: list[ListedModel]


class StatusResponse(BaseModel):
    """Whether the service can do its work."""

    status: str


def milliseconds(seconds: float) -> float:
    """To the microsecond."""
    return round(seconds * 1000, 3)
