"""What the service is started with, is asked, and answers."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from galleria.learn.recipe import Frozen
from galleria.media.limits import LIMITS, Limits


class ServiceArguments(Frozen):
    """All that the service is started with: the `args` of a file in `serve_configs/`."""

    bundle: str = Field(description="folder of the bundle that embeds queries")
    table: str = Field(description="the product table that answers are read from")
    index: str = Field(description="folder of the index that was built from the table")
    limits: Limits = LIMITS
    batch_size: int = Field(16, gt=0, description="most queries that are embedded together")
    batch_wait_s: float = Field(0.002, ge=0, description="how long a query waits for others to join it, in seconds")
    threads: int = Field(2, gt=0, description="threads that decode in one embedder, and that search in one gateway")
    embedder_replicas: int = Field(1, gt=0)
    gateway_replicas: int = Field(1, gt=0)
    embedder_cpus: float = Field(1, ge=0, description="Ray CPUs that one embedder reserves, and its network uses")
    gateway_cpus: float = Field(0, ge=0, description="Ray CPUs that one gateway reserves")
    waiting: int = Field(64, gt=0, description="most searches in one gateway at a time; more are answered 503")
    read_seconds: float = Field(30, gt=0, description="how long a request's body may take to arrive")
    embed_seconds: float = Field(30, gt=0, description="how long embedding a query may take")

    @field_validator("limits")
    @classmethod
    def _not_above(cls, limits: Limits) -> Limits:
        # A family decodes under the platform's own limits, so a higher one here would not be kept.
        for name in ("image_bytes", "image_pixels"):
            if getattr(limits, name) > getattr(LIMITS, name):
                raise ValueError(f"{name} can be lowered, but not raised over {getattr(LIMITS, name):,}")
        return limits


class SearchQuery(BaseModel):
    """One search: exactly one of `image`, `text` and `vector`."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[
        bytes | None,
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

    @field_validator("image", mode="before")
    @classmethod
    def _from_base64(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        encoded = value.partition(",")[2] if value.startswith("data:") else value
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("is not base64: encode the bytes of a picture file") from error

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


class Item(BaseModel):
    """What the catalogue says of a picture; `image` is the path that answers its bytes."""

    title: str | None
    text: str | None
    category: list[str] | None
    product_id: str | None
    source: str | None
    image: str


class Hit(BaseModel):
    """One result; `score` is the cosine of the angle between query and item."""

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


class SearchAnswer(BaseModel):
    """Hits, best first."""

    hits: list[Hit]
    stages: Stages
    latency_ms: float
    model: ModelName
    catalog: CatalogName


class ItemAnswer(BaseModel):
    """One item."""

    id: str
    item: Item
    catalog: CatalogName


class Model(ModelName):
    """A model in use: `dimension` of its vectors, which `inputs` it embeds, and scores it was saved with."""

    dimension: int
    inputs: list[str]
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
