"""The HTTP interface, version 1: the catalogue, and what the service says of itself."""

import asyncio
import time
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import FastAPI, Path, Request
from fastapi import Query as QueryParameter
from fastapi.responses import Response

from galleria.media.limits import Limits
from galleria.serving.admission import Admission
from galleria.serving.answers import (
    CatalogAnswer,
    ItemAnswer,
    ItemsAnswer,
    ListedModel,
    Model,
    ModelsAnswer,
    SearchAnswer,
    StatusAnswer,
)
from galleria.serving.arguments import ServiceArguments
from galleria.serving.audit import AuditLog
from galleria.serving.body import read_body, read_search
from galleria.serving.items import ItemService
from galleria.serving.metrics import Metrics
from galleria.serving.models import ModelService
from galleria.serving.problems import RefusedError, problem_answers
from galleria.serving.queries import ItemInput, PutItems, SearchQuery
from galleria.serving.service import SearchService

MinVersion = Annotated[int | None, QueryParameter(ge=1, description="answer from no older version than this")]
ItemId = Annotated[str, Path(description="an item's id, percent-encoded", examples=["shoe-17"])]


def add_catalogue_routes(
    app: FastAPI,
    service: SearchService | None,
    arguments: ServiceArguments,
    admission: Admission,
    metrics: Metrics,
) -> None:
    """Add the search and the items to `app`. Without `service` they answer that there is no catalogue."""
    limits = arguments.limits

    def catalogue() -> SearchService:
        if service is None:
            raise RefusedError(
                404, "not-found", "this service holds no catalogue: start it with a bundle, a table and an index"
            )
        return service

    @app.post(
        "/v1/search",
        tags=["search"],
        openapi_extra={"requestBody": _search_body()},
        responses=problem_answers(400, 404, 408, 413, 415, 422, 503),
    )
    async def search(request: Request) -> SearchAnswer:
        """Find the items most similar to a picture, to words, or to a vector."""
        started = time.perf_counter()
        searched = catalogue()
        async with admission.enter():
            query = await read_search(request, limits, arguments.read_seconds)
            answer = await searched.search(query, started)
        metrics.stages(answer.stages.model_dump())
        return answer

    @app.get("/v1/catalog", tags=["items"], responses=problem_answers(404))
    async def catalog() -> CatalogAnswer:
        """The version of the catalogue, its items, and how far the index follows."""
        return await catalogue().catalog()

    # The path is matched as it was sent (see RequestScope), so that ids may hold any character.
    @app.get("/v1/items/{item_id}", tags=["items"], responses=problem_answers(404, 422))
    async def item(item_id: ItemId, min_version: MinVersion = None) -> ItemAnswer:
        """The fields of one item."""
        return await catalogue().item(unquote(item_id), min_version)

    @app.get(
        "/v1/items/{item_id}/image",
        tags=["items"],
        response_class=Response,
        responses=_picture() | problem_answers(404, 422),
    )
    async def picture(item_id: ItemId, request: Request) -> Response:
        """The picture of one item."""
        found = await catalogue().picture(unquote(item_id))
        headers = {"cache-control": "public, max-age=3600", "etag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.media_type)


def add_write_routes(
    app: FastAPI, service: ItemService | None, arguments: ServiceArguments, admission: Admission
) -> None:
    """Add writing to `app`. Without `service` it answers that the service only reads."""
    limits = arguments.limits
    audit = AuditLog(arguments.audit)

    def writing() -> ItemService:
        if service is None:
            raise RefusedError(
                403, "read-only", "this service does not write: start it with 'writable: true' and a catalogue"
            )
        return service

    @app.put(
        "/v1/items",
        tags=["items"],
        openapi_extra={"requestBody": _items_body()},
        responses=problem_answers(400, 403, 408, 413, 415, 422, 503, 507),
    )
    async def put(request: Request) -> ItemsAnswer:
        """Put items into the catalogue, each in place of what was under its id.

        Answered once they would survive a loss of power. One that cannot be used is "rejected" and does not keep the
        others from it.
        """
        started = time.perf_counter()
        items = writing()
        async with admission.enter():
            asked = await read_body(request, PutItems, limits.batch_bytes, arguments.read_seconds)
            answer = await items.put(asked.items, started)
        await asyncio.to_thread(audit.written, request, answer)
        return answer

    @app.delete("/v1/items/{item_id}", tags=["items"], responses=problem_answers(403, 404, 422, 503, 507))
    async def delete(item_id: ItemId, request: Request) -> ItemsAnswer:
        """Take one item out of the catalogue; answered once that would survive a loss of power."""
        answer = await writing().delete(unquote(item_id), time.perf_counter())
        await asyncio.to_thread(audit.written, request, answer)
        return answer


def add_status_routes(app: FastAPI, service: ModelService, bounds: Limits) -> None:
    """Add to `app` what the service says of itself."""

    @app.get("/v1/models", tags=["service"], responses=problem_answers(503))
    async def models() -> ModelsAnswer:
        """The models in use."""
        found = await service.describe()
        return ModelsAnswer(
            models=[
                Model(
                    name=name,
                    kind=model.kind,
                    family=model.family,
                    hash=model.hash,
                    inputs=list(model.inputs),
                    dimension=model.dimension,
                    slices=list(model.slices),
                    levels=model.levels,
                    metrics=dict(model.metrics),
                )
                for name, model in found.items()
            ],
            data=[ListedModel(id=name) for name in found],
        )

    @app.get("/v1/limits", tags=["service"])
    async def limits() -> Limits:
        """How much a query may hold."""
        return bounds

    @app.get("/livez", tags=["service"])
    async def livez() -> StatusAnswer:
        """This process answers."""
        return StatusAnswer(status="alive")

    @app.get("/readyz", tags=["service"], responses=problem_answers(503))
    async def readyz() -> StatusAnswer:
        """Every model answers too, and runs the bundle that the service (and its catalogue) was started with."""
        await service.describe()
        return StatusAnswer(status="ready")


def _search_body() -> dict[str, Any]:
    schema = SearchQuery.model_json_schema()
    form = {name: field for name, field in schema["properties"].items() if name != "vector"}
    form["filter"] = {"type": "string", "description": "conditions as JSON", "examples": ['{"colour": "red"}']}
    form["image"] = {"type": "string", "format": "binary", "description": "a picture file"}
    form["text"] = {"type": "string", "description": schema["properties"]["text"]["description"]}
    form["level_weights"] = {
        "type": "string",
        "description": schema["properties"]["level_weights"]["description"],
        "examples": ["0.2,0.8"],
    }
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
                    "filter": {
                        "value": {"text": "boots", "filter": {"category": {"$prefix": ["Shoes"]}, "price": {"$lt": 50}}}
                    },
                    "levels": {"value": {"image": "iVBORw0KGgo…", "k": 10, "level_weights": [0.2, 0.8]}},
                },
            },
        },
    }


def _items_body() -> dict[str, Any]:
    item = ItemInput.model_json_schema()
    schema = {"type": "object", "properties": {"items": {"type": "array", "items": item}}, "required": ["items"]}
    example = {
        "items": [
            {
                "id": "shoe-17",
                "image": "iVBORw0KGgo…",
                "title": "Red boot",
                "category": ["Shoes", "Boots"],
                "attributes": {"colour": "red", "price": 39.9},
            }
        ]
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _picture() -> dict[int | str, dict[str, Any]]:
    content = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "the encoded picture", "content": content}}
