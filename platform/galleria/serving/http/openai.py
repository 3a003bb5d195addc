"""Route of embeddings, compatible with OpenAI's clients.

A text that is a data URI (`data:image/png;base64,…`) is a picture. `dimensions` truncates the vectors, where the model
was trained for that (Kusupati et al. 2022, Matryoshka representation learning).
"""

import asyncio
import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.concurrency import map_concurrently
from galleria.serving.config import SEARCH
from galleria.serving.http.long_response import respond
from galleria.serving.http.services import ServicesDep, SessionDep
from galleria.serving.inference.client import ModelClient
from galleria.serving.schemas.encoded import EncodedFile
from galleria.serving.schemas.openapi import example_response, schema_of
from galleria.serving.schemas.problems import ProblemError, invalid_field, problem_responses
from galleria.serving.schemas.requests import ClassifyRequest
from galleria.serving.services.search import unit

PICTURE_PREFIX = "data:image/"

router = APIRouter(tags=["models"])


Input = str | EncodedFile


class EmbeddingsRequest(BaseModel):
    """Texts and pictures to embed. As at OpenAI, null fields count as not sent, unknown ones are ignored."""

    model: str = Field(SEARCH, description="name of the model that searches")
    input: Input | list[Input] = Field(description="a text or a picture as a data URI, or a list of them")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32")
    dimensions: int | None = Field(None, ge=1, description="length of the vectors; one of the model's `slices`")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, fields: Any) -> Any:
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )

    @field_validator("input", mode="before")
    @classmethod
    def _check_types(cls, value: Any) -> Any:
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, int | list) for part in parts):
            raise ValueError("holds token ids: send texts (with LangChain, set check_embedding_ctx_length=False)")
        if not all(isinstance(part, str | EncodedFile) for part in parts):
            raise ValueError("must be a text, a picture as a data URI, or a list of these")
        return value

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: Input | list[Input]) -> Input | list[Input]:
        if not value or any(isinstance(part, str) and not part.strip() for part in _parts(value)):
            raise ValueError("is empty: send at least one text or picture")
        return value


class Embedding(BaseModel):
    """One vector, as numbers or in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Token counts that clients expect; always 0."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsResponse(BaseModel):
    """Unit vectors, in the order of the inputs; `hash` is of the bundle that computed them."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    hash: str
    usage: Usage = Usage()


def _body() -> dict[str, Any]:
    examples = {
        "words": {"value": {"model": SEARCH, "input": ["red shoes", "blue hat"]}},
        "picture": {"value": {"model": SEARCH, "input": "data:image/png;base64,iVBORw0KGgo…"}},
    }
    content = {"application/json": {"schema": schema_of(EmbeddingsRequest), "examples": examples}}
    return {"required": True, "content": content}


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsResponse,
    openapi_extra={"requestBody": _body()},
    responses=example_response("POST /v1/embeddings") | problem_responses(400, 401, 404, 408, 413, 415, 422, 429, 503),
)
async def create_embeddings(request: Request, services: ServicesDep, session: SessionDep) -> Response:
    """Embed texts and pictures; compatible with OpenAI's clients."""
    limits = services.config.limits
    services.admission.queries.check()
    pictures = services.search is not None and "image" in await services.search.split.main.model.inputs()
    max_bytes = limits.batch_bytes if pictures else limits.text_bytes(limits.embedding_inputs)
    async with services.bodies.read(request, EmbeddingsRequest, max_bytes) as query:
        if services.search is None or query.model != SEARCH:
            raise ProblemError(
                404, "not-found", f"there is no model {query.model[:200]!r} that embeds: see GET /v1/models"
            )
        model = services.search.split.pick(session).model
        with services.admission.queries.admit():
            vectors = await embed(query, model, limits)
        outline = EmbeddingsResponse(data=[], model=SEARCH, hash=model.model.hash)
        return await respond(services.bodies, outline, "data", _elements(vectors, query.encoding_format))


async def embed(query: EmbeddingsRequest, model: ModelClient, limits: Limits) -> list[NDArray[np.float32]]:
    """Embed the inputs of a request; return unit vectors `[D]` in their order.

    Raises:
        DataError: an input cannot be used.
        ProblemError: 422, too many inputs, or no vectors of that length; 503, the model cannot be reached.
    """
    inputs = _parts(query.input)
    if len(inputs) > limits.embedding_inputs:
        raise invalid_field("input", f"has {len(inputs)} parts, over the limit of {limits.embedding_inputs}")
    width = await _width(query, model)
    rows = await asyncio.to_thread(lambda: [_row(part, index, limits) for index, part in enumerate(inputs)])

    async def predict(row: Mapping[str, Any]) -> NDArray[np.float32]:
        return unit(np.asarray((await model.predict(row))["embedding"])[:width])

    return await map_concurrently(predict, rows)


def _elements(vectors: Iterable[NDArray[np.float32]], encoding: str) -> Iterator[Embedding]:
    for index, vector in enumerate(vectors):
        yield Embedding(index=index, embedding=_encoded(vector, encoding))


async def _width(query: EmbeddingsRequest, model: ModelClient) -> int | None:
    if query.dimensions is None:
        return None
    description = await model.describe()
    known = sorted({*description.slices, description.dimension or 0} - {0})
    if query.dimensions not in known:
        raise invalid_field("dimensions", f"is {query.dimensions}: this model has {', '.join(map(str, known))}")
    return query.dimensions


def _parts(value: Input | list[Input]) -> list[Input]:
    return value if isinstance(value, list) else [value]


def _row(text: Input, index: int, limits: Limits) -> dict[str, Any]:
    if not text.startswith(PICTURE_PREFIX):
        text = text.text() if isinstance(text, EncodedFile) else text
        if len(text) > limits.text_characters:
            raise invalid_field(
                f"input.{index}", f"has {len(text):,} characters, over the limit of {limits.text_characters:,}"
            )
        return {"text": text}
    try:
        image = ClassifyRequest.model_validate({"image": text}).image
    except ValidationError as error:
        raise invalid_field(f"input.{index}", "is not a picture in base64: encode the bytes of a file") from error
    media_type(image, limits)
    return {"image": image}


def _encoded(vector: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector.tolist()  # type: ignore[no-any-return]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
