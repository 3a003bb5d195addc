"""The HTTP interface, version 1."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import FastAPI, Path, Request
from fastapi.responses import Response

from galleria.media.limits import Limits
from galleria.serving.body import read_query
from galleria.serving.problems import MEDIA_TYPE, unavailable
from galleria.serving.schemas import (
    ItemAnswer,
    Model,
    ModelsAnswer,
    Problem,
    SearchAnswer,
    SearchQuery,
    StatusAnswer,
)
from galleria.serving.service import SearchService

ItemId = Annotated[str, Path(description="an item's id, percent-encoded", examples=["shoe-17"])]


def add_routes(app: FastAPI, service: SearchService, waiting: int, read_seconds: float) -> None:
    """Add every route but the pages to `app`. More than `waiting` searches at a time are answered 503."""
    searches = 0

    @asynccontextmanager
    async def admitted() -> AsyncIterator[None]:
        nonlocal searches
        if searches >= waiting:
            raise unavailable(f"{waiting} searches are being answered: try again")
        searches += 1
        try:
            yield
        finally:
            searches -= 1

    @app.post(
        "/v1/search",
        tags=["search"],
        openapi_extra={"requestBody": _search_body()},
        responses=_problems(400, 408, 413, 415, 422, 503),
    )
    async def search(request: Request) -> SearchAnswer:
        """Find the items most similar to a picture, to words, or to a vector."""
        started = time.perf_counter()
        async with admitted():
            query = await read_query(request, service.limits, read_seconds)
            return await service.search(query, started)

    # The path is matched as it was sent (see RequestScope), so that ids may hold any character.
    @app.get("/v1/items/{item_id}", tags=["items"], responses=_problems(404, 422))
    async def item(item_id: ItemId) -> ItemAnswer:
        """The fields of one item."""
        return await service.item(unquote(item_id))

    @app.get(
        "/v1/items/{item_id}/image", tags=["items"], response_class=Response, responses=_picture() | _problems(404, 422)
    )
    async def picture(item_id: ItemId, request: Request) -> Response:
        """The picture of one item."""
        found = await service.picture(unquote(item_id))
        headers = {"cache-control": "public, max-age=3600", "etag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.media_type)

    @app.get("/v1/models", tags=["service"], responses=_problems(503))
    async def models() -> ModelsAnswer:
        """The models in use."""
        found = await service.model()
        return ModelsAnswer(
            models=[
                Model(
                    family=found.family,
                    hash=found.hash,
                    dimension=found.dimension,
                    inputs=list(found.inputs),
                    metrics=dict(found.metrics),
                )
            ]
        )

    @app.get("/v1/limits", tags=["service"])
    async def limits() -> Limits:
        """How much a query may hold."""
        return service.limits

    @app.get("/livez", tags=["service"])
    async def livez() -> StatusAnswer:
        """This process answers."""
        return StatusAnswer(status="alive")

    @app.get("/readyz", tags=["service"], responses=_problems(503))
    async def readyz() -> StatusAnswer:
        """The embedder answers too, and its bundle is the one that the catalogue's vectors were made with."""
        await service.model()
        return StatusAnswer(status="ready")


def _search_body() -> dict[str, Any]:
    schema = SearchQuery.model_json_schema()
    form = {name: field for name, field in schema["properties"].items() if name != "vector"}
    form["image"] = {"type": "string", "format": "binary", "description": "a picture file"}
    form["text"] = {"type": "string", "description": schema["properties"]["text"]["description"]}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": form, "additionalProperties": False}},
            "application/json": {
                "schema": schema,
                "examples": {
                    "words": {"value": {"text": "red shoes", "k": 10}},
                    "picture": {"value": {"image": "iVBORw0KGgo…", "k": 10}},
                    "vector": {"value": {"vector": [0.1, -0.2, 0.05], "k": 10}},
                },
            },
        },
    }


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = Problem.model_json_schema()
    schema["properties"]["errors"]["items"] = schema.pop("$defs")["FieldProblem"]  # refers to nothing outside itself
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _picture() -> dict[int | str, dict[str, Any]]:
    content = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "the encoded picture", "content": content}}
