"""Bodies of requests."""

import binascii
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
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from galleria.index.filters import OPERATORS
from galleria.serving.schemas.cursor import PageCursor, read_cursor
from galleria.serving.schemas.encoded import EncodedFile, decode_base64

MAX_MIX_PARTS = 16
"""Parts of a `mix`."""

MAX_LEVELS = 16
"""Levels of a category tree that a search may weight."""


def _from_base64(value: Any) -> Any:
    if not isinstance(value, str | EncodedFile):
        return value
    if isinstance(value, str) and value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return decode_base64(value)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64: encode the bytes of a file") from error


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError as error:
        raise ValueError("is not JSON: write an object of conditions") from error


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _not_all_zero(weights: list[float]) -> list[float]:
    if not any(weights):
        raise ValueError("are all zero: give one level a weight above 0")
    return weights


File = Annotated[bytes, BeforeValidator(_from_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
"""A file's bytes; in JSON as base64 or as a data URI."""

LevelWeights = Annotated[
    list[Annotated[FiniteFloat, Field(ge=0)]],
    BeforeValidator(_split),
    AfterValidator(_not_all_zero),
    Field(min_length=1, max_length=MAX_LEVELS),
]


class RequestBody(BaseModel):
    """Base of every request's body."""

    model_config = ConfigDict(extra="forbid")


class QueryInput(RequestBody):
    """What to search by: exactly one of `image`, `text`, `vector` and `item`."""

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
        None,
        min_length=1,
        max_length=65_536,
        description="an embedding of the same model; need not be unit length",
    )
    item: str | None = Field(None, description="id of an item: more like it, but not the item itself")

    @field_validator("text")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty: write at least one word")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "QueryInput":
        sent = [name for name in self.input_fields() if getattr(self, name) is not None]
        if len(sent) != 1:
            fields = self.input_fields()
            raise ValueError(
                f"send exactly one of {', '.join(fields[:-1])} and {fields[-1]}, not {' and '.join(sent) or 'none'}"
            )
        return self

    @classmethod
    def input_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields of which exactly one must be sent."""
        return ("image", "text", "vector", "item")


class WeightedQueryInput(QueryInput):
    """One part of a mix."""

    weight: FiniteFloat = Field(1.0, description="how much it counts; below 0 for less similar")

    @field_validator("weight")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0:
            raise ValueError("is 0: leave the part out")
        return value


class SearchRequest(QueryInput):
    """One search: exactly one of `image`, `text`, `vector`, `item` and `mix`."""

    mix: list[WeightedQueryInput] | None = Field(
        None, min_length=1, max_length=MAX_MIX_PARTS, description="several of them, each with a weight"
    )
    k: int = Field(10, ge=1, description="number of hits; with those before them at most `results` of `GET /v1/limits`")
    offset: int = Field(0, ge=0, description="hits to skip, to continue where a response ended")
    after: Annotated[
        PageCursor | None,
        BeforeValidator(read_cursor),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "After"}),
        Field(
            None,
            description="`next` of the last response to the same query: the hits behind its last one, also where items "
            "were written since",
        ),
    ]
    min_score: FiniteFloat | Literal["calibrated"] | None = Field(
        None,
        description="leave out hits that score less; 'calibrated': less than `match_score`, which one in twenty "
        "queries for a product that is not in the catalogue still reaches",
    )
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
            description='which items are searched, such as {"price": {"$lt": 50}}: a value or '
            f"{', '.join(OPERATORS)} a field, and $and, $or, $not; in a form as JSON",
            json_schema_extra={"title": "Filter"},
        ),
    ]
    min_version: int | None = Field(
        None,
        ge=1,
        description="search no older version of the catalogue; that of a write reads your own writes",
    )

    @property
    def end(self) -> int:
        """Number of hits up to the end of the page that is requested."""
        return self.offset + self.k + (0 if self.after is None else self.after.hit.depth)

    @model_validator(mode="after")
    def _one_start(self) -> "SearchRequest":
        if self.after is not None and self.offset:
            raise ValueError("send one of after and offset, not both")
        return self

    @classmethod
    def input_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields of which exactly one must be sent."""
        return (*QueryInput.input_fields(), "mix")


class BatchSearchRequest(RequestBody):
    """Several searches."""

    queries: list[dict[str, Any]] = Field(min_length=1, description="one object a search, see `SearchRequest`")


class ClassifyRequest(RequestBody):
    """One picture to classify."""

    image: File = Field(description="an encoded picture; in JSON as base64 or as a data URI")


class EventsRequest(RequestBody):
    """One video to find events in."""

    video: File = Field(description="a video file; in JSON as base64 or as a data URI")


AttributeValue = Annotated[StrictStr | StrictBool | StrictInt | FiniteFloat, Field()]


class ItemInput(RequestBody):
    """An item to put into the catalogue; it replaces the item of its id."""

    id: str = Field(description="any text of 1 to 512 bytes", examples=["shoe-17"])
    image: Annotated[
        File | None,
        Field(None, description="an encoded picture, as base64 or as a data URI", json_schema_extra={"title": "Image"}),
    ]
    image_uri: str | None = Field(None, description="instead of `image`: its URI, in a store that the service allows")
    vector: list[FiniteFloat] | None = Field(
        None,
        min_length=1,
        max_length=65_536,
        description="an embedding by the same model, if you have one already",
    )
    title: str | None = None
    text: str | None = None
    category: list[str] | None = Field(None, description="path from the root", examples=[["Shoes", "Boots"]])
    product_id: str | None = None
    source: str | None = None
    attributes: dict[str, AttributeValue] | None = Field(
        None, description="values that searches can filter by", examples=[{"colour": "red", "price": 39.9}]
    )

    @model_validator(mode="after")
    def _has_content(self) -> "ItemInput":
        if self.image is not None and self.image_uri is not None:
            raise ValueError("has both image and image_uri: send one of them")
        if self.image is None and self.image_uri is None and self.vector is None and not self.text:
            raise ValueError("has no content to embed: send an image, an image_uri, a text or a vector")
        return self


class PutItemsRequest(RequestBody):
    """Items to put into the catalogue."""

    items: list[dict[str, Any]] = Field(min_length=1, description="one object an item, see `ItemInput`")
