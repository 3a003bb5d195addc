"""What the service is started with, is asked, and answers."""

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from galleria.learn.recipe import Frozen
from galleria.media.limits import LIMITS, Limits

Kind = Literal["search", "classify", "events"]
"""What a model is asked for."""

SEARCH: Kind = "search"
"""Name of the model that embeds queries, beside those of `ServiceArguments.models`."""

MOST_LEVELS = 16
"""Levels of a category tree that a search may weigh."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]


class ServiceArguments(Frozen):
    """All that the service is started with: the `args` of a file in `serve_configs/`.

    It searches where it has `bundle`, `table` and `index`, and answers for each of `models`: one of the two, or both.
    """

    bundle: str = Field("", description="folder of the bundle that embeds queries")
    table: str = Field("", description="the product table that answers are read from")
    index: str = Field("", description="folder of the index that was built from the table")
    models: dict[Name, str] = Field(
        default_factory=dict, description="folders of bundles that classify pictures or find events in videos, by name"
    )
    limits: Limits = LIMITS
    batch_size: int = Field(16, gt=0, description="most queries that go through a network together")
    batch_wait_s: float = Field(0.002, ge=0, description="how long a query waits for others to join it, in seconds")
    writable: bool = Field(
        False, description="whether items may be written and deleted: whoever reaches the service may do so then"
    )
    keys: str = Field(
        "", description="file of keys, made with 'galleria keys'; without any the service answers on loopback only"
    )
    audit: str = Field("", description="file that gets a line for every write; the log has it in any case")
    stores: tuple[str, ...] = Field(
        (), description="beginnings of the addresses that items' pictures may be read from, such as s3://shop/pictures/"
    )
    keep_days: float = Field(7, ge=0, description="how long versions of the table without a name are kept")
    threads: int = Field(2, gt=0, description="threads that decode for one model, and that search in one gateway")
    model_replicas: int = Field(1, gt=0, description="replicas of every model")
    gateway_replicas: int = Field(1, gt=0)
    search_cpus: float = Field(1, ge=0, description="Ray CPUs that the embedding model reserves, and its network uses")
    model_cpus: float = Field(
        0, ge=0, description="the same for each of `models`; with 0 they share what is there, one thread each"
    )
    gateway_cpus: float = Field(0, ge=0, description="Ray CPUs that one gateway reserves")
    waiting: int = Field(64, gt=0, description="most queries in one gateway at a time; more are answered 503")
    writes_waiting: int = Field(16, gt=0, description="the same for requests that write, which it holds in memory")
    videos_waiting: int = Field(4, gt=0, description="the same for videos, which it holds in memory")
    read_seconds: float = Field(30, gt=0, description="how long a request's body may take to arrive")
    version_seconds: float = Field(5, gt=0, description="how long a search waits for the version that it asks for")
    predict_seconds: float = Field(30, gt=0, description="how long a model may take for a query")
    video_seconds: float = Field(120, gt=0, description="how long a video may take to arrive, and again to be answered")

    @property
    def bundles(self) -> dict[str, str]:
        """Folders of all bundles, by the names of their models."""
        return ({SEARCH: self.bundle} if self.bundle else {}) | self.models

    @field_validator("limits")
    @classmethod
    def _not_above(cls, limits: Limits) -> Limits:
        # A family decodes under the platform's own limits: only what the gateway checks before can be stricter.
        for name in ("image_bytes", "image_pixels", "video_bytes"):
            if getattr(limits, name) > getattr(LIMITS, name):
                raise ValueError(f"{name} can be lowered, but not raised over {getattr(LIMITS, name):,}")
        for name in ("video_pixels", "video_seconds", "video_frames"):
            if getattr(limits, name) != getattr(LIMITS, name):
                raise ValueError(f"{name} is the platform's own, {getattr(LIMITS, name):,}: leave it out")
        return limits

    @model_validator(mode="after")
    def _something_to_do(self) -> "ServiceArguments":
        places = {"bundle": self.bundle, "table": self.table, "index": self.index}
        missing = [name for name, place in places.items() if not place]
        if 0 < len(missing) < len(places):
            raise ValueError(f"bundle, table and index go together: give {' and '.join(missing)} too")
        if missing and self.writable:
            raise ValueError("writable needs a catalogue: give bundle, table and index too")
        if missing and not self.models:
            raise ValueError("there is nothing to serve: give bundle, table and index, or models, or both")
        if SEARCH in self.models:
            raise ValueError(f"models: {SEARCH!r} names the model of `bundle`: choose another name")
        return self


def _from_base64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64: encode the bytes of a file") from error


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON: write an object of conditions") from error


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _not_all_zero(weights: list[float]) -> list[float]:
    if not any(weights):
        raise ValueError("are all zero: give one level a weight above 0")
    return weights


File = Annotated[bytes, BeforeValidator(_from_base64)]
"""A file's bytes; in JSON as base64 or as a data URI."""

LevelWeights = Annotated[
    list[Annotated[FiniteFloat, Field(ge=0)]],
    BeforeValidator(_split),
    AfterValidator(_not_all_zero),
    Field(min_length=1, max_length=MOST_LEVELS),
]


class Query(BaseModel):
    """Base of every request's body."""

    model_config = ConfigDict(extra="forbid")


class SearchQuery(Query):
    """One search: exactly one of `image`, `text` and `vector`."""

    image: Annotated[
        File | None,
        Field(
            None,
            description="an encoded picture; in JSON as base64 or as a data URI",
            json_schema_extra={"title": "Image"},
        ),
    ]
    text: str | None = Field(None, description="words, where the model reads text")
    vector: list[FiniteFloat] | None = Field(
        None, min_length=1, max_length=65_536, description="an embedding of the same model; need not be unit length"
    )
    k: int = Field(10, ge=1, description="number of hits; at most `results` of `GET /v1/limits`")
    level_weights: LevelWeights | None = Field(
        None,
        description="how much each level of the category tree counts, root first, where the model has levels; "
        "in a form separated by commas",
    )

    filter: Annotated[
        dict[str, Any] | None,
        BeforeValidator(_from_json),
        Field(
            None,
            description='which items may be found, such as {"price": {"$lt": 50}}; in a form as JSON',
            json_schema_extra={"title": "Filter"},
        ),
    ]
    min_version: int | None = Field(
        None, ge=1, description="search no older version of the catalogue than this: a write's, to find what it wrote"
    )

    @field_validator("text")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty: write at least one word")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "SearchQuery":
        given = [name for name in ("image", "text", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"send exactly one of image, text and vector, not {' and '.join(given) or 'none'}")
        return self


class ClassifyQuery(Query):
    """One picture to classify."""

    image: File = Field(description="an encoded picture; in JSON as base64 or as a data URI")


class EventsQuery(Query):
    """One video to find events in."""

    video: File = Field(description="a video file; in JSON as base64 or as a data URI")


AttributeValue = Annotated[StrictStr | StrictBool | StrictInt | FiniteFloat, Field()]


class ItemInput(Query):
    """An item to put into the catalogue: what was under its id is replaced."""

    id: str = Field(description="any text of 1 to 512 bytes", examples=["shoe-17"])
    image: Annotated[
        File | None,
        Field(None, description="an encoded picture, as base64 or as a data URI", json_schema_extra={"title": "Image"}),
    ]
    image_uri: str | None = Field(None, description="instead of `image`: where it lies, in a store that is allowed")
    vector: list[FiniteFloat] | None = Field(
        None, min_length=1, max_length=65_536, description="an embedding of the same model, if you have one already"
    )
    title: str | None = None
    text: str | None = None
    category: list[str] | None = Field(None, description="path from the root", examples=[["Shoes", "Boots"]])
    product_id: str | None = None
    source: str | None = None
    attributes: dict[str, AttributeValue] | None = Field(
        None, description="what searches can be filtered by", examples=[{"colour": "red", "price": 39.9}]
    )

    @model_validator(mode="after")
    def _something_to_embed(self) -> "ItemInput":
        if self.image is not None and self.image_uri is not None:
            raise ValueError("has both image and image_uri: send one of them")
        if self.image is None and self.image_uri is None and self.vector is None and not self.text:
            raise ValueError("has nothing to be found by: send an image, an image_uri, a text or a vector")
        return self


class PutItems(Query):
    """Items to put into the catalogue together."""

    items: list[dict[str, Any]] = Field(min_length=1, description="one object an item, see `ItemInput`")


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


class Stages(BaseModel):
    """Where the time went, in milliseconds."""

    read_ms: float
    embed_ms: float
    search_ms: float
    fetch_ms: float


class ModelName(BaseModel):
    """The bundle that made an answer."""

    family: str
    hash: str


class CatalogName(BaseModel):
    """The version of the product table that an answer was read from, and its number of items."""

    version: int
    count: int


class NamedModel(ModelName):
    """The same with the name that addresses call it by."""

    name: str


class ShardCount(BaseModel):
    """Shards of the index: how many were searched, and how many there are."""

    searched: int
    total: int


class SearchAnswer(BaseModel):
    """Hits, best first; `predicted` is what else the model says of the query, such as its category on every level.

    `partial` says that only some of the index's shards could be searched: there may be better hits in the others.
    """

    hits: list[Hit]
    predicted: dict[str, Any] = {}
    partial: bool
    shards: ShardCount
    stages: Stages
    latency_ms: float
    model: ModelName
    catalog: CatalogName


ItemStatus = Literal["created", "updated", "unchanged", "deleted", "absent", "rejected"]


class ItemResult(BaseModel):
    """What became of one item; `problem` says why it was rejected."""

    id: str | None
    status: ItemStatus
    problem: str | None = None


class ItemsAnswer(BaseModel):
    """What became of the items of a request, in its order; from `version` on searches find them so."""

    version: int
    items: list[ItemResult]
    latency_ms: float


class ShardAnswer(BaseModel):
    """One shard of the index: its kind, its vectors, and those that are newer than it, which are searched exactly."""

    kind: str
    indexed: int
    waiting: int


class CatalogAnswer(CatalogName):
    """The catalogue: its version and items, the bundle of its vectors, and how far the index follows."""

    bundle_hash: str
    dimension: int
    index_version: int
    waiting: int
    shards: list[ShardAnswer]


class AnswerStages(BaseModel):
    """Where the time went, in milliseconds; `predict_ms` holds waiting, decoding and the network."""

    read_ms: float
    predict_ms: float


class Answer(BaseModel):
    """What a model says of a picture or a video; its family decides what `result` holds."""

    result: dict[str, Any]
    model: NamedModel
    stages: AnswerStages
    latency_ms: float


class ItemAnswer(BaseModel):
    """One item."""

    id: str
    item: Item
    catalog: CatalogName


class Model(NamedModel):
    """A model in use: what it is asked for, what it reads, and scores it was saved with.

    One that searches has vectors of a `dimension`, and a search may weigh so many `levels` of its category tree.
    """

    kind: Kind
    inputs: list[str]
    dimension: int | None
    levels: int
    metrics: dict[str, float]


class ModelsAnswer(BaseModel):
    """The models in use."""

    models: list[Model]


class StatusAnswer(BaseModel):
    """Whether the service can do its work."""

    status: str


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
