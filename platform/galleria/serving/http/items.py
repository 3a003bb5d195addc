"""The HTTP interface, version 1: the catalogue, and what the service says of itself."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import FastAPI, Path, Request
from fastapi import Query as QueryParameter
from fastapi.responses import Response

from galleria.media.limits import Limits
from galleria.pipelines.releases import Alias
from galleria.serving.config import ServiceConfig
from galleria.serving.http.admission import Admission
from galleria.serving.http.audit import AuditLog
from galleria.serving.http.body import read_body
from galleria.serving.schemas.openapi import schema_of
from galleria.serving.schemas.problems import ProblemError, problem_responses, unavailable
from galleria.serving.schemas.requests import AliasQuery, ItemInput, PutItemsRequest
from galleria.serving.schemas.responses import (
    AliasAnswer,
    AliasesResponse,
    CatalogResponse,
    ItemResponse,
    ListedModel,
    ModelDetails,
    ModelsResponse,
    StatusResponse,
    WriteResponse,
)
from galleria.serving.services.items import AbsentError, ItemService
from galleria.serving.services.models import ModelService
from galleria.serving.services.releases import ReleaseFollower
from galleria.serving.services.traffic import LiveTraffic, search_service

MAX_ALIAS_BODY_BYTES = 65_536
"""Of a request that names things."""

MinVersion = Annotated[int | None, QueryParameter(ge=1, description="answer from no older version than this")]
AliasId = Annotated[str, Path(description="an alias: the name of a model")]
ItemId = Annotated[str, Path(description="an item's id, percent-encoded", examples=["shoe-17"])]


def add_catalogue_routes(app: FastAPI, traffic: LiveTraffic | None, config: ServiceConfig) -> None:
    """Add the items to `app`. Without `traffic` they answer that there is no catalogue."""

    @app.get("/v1/catalog", tags=["items"], responses=problem_responses(404))
    async def catalog() -> CatalogResponse:
        """The version of the catalogue, its items, and how far the index follows."""
        return await search_service(traffic).catalog(config.writable)

    # The path is matched as it was sent (see RequestContextMiddleware), so that ids may hold any character.
    @app.get("/v1/items/{item_id}", tags=["items"], responses=problem_responses(404, 422, 503))
    async def item(item_id: ItemId, min_version: MinVersion = None) -> ItemResponse:
        """The fields of one item."""
        return await search_service(traffic).item(unquote(item_id), min_version)

    @app.get(
        "/v1/items/{item_id}/image",
        tags=["items"],
        response_class=Response,
        responses=_picture() | problem_responses(404, 422),
    )
    async def picture(item_id: ItemId, request: Request) -> Response:
        """The picture of one item."""
        found = await search_service(traffic).picture(unquote(item_id))
        headers = {"cache-control": "public, max-age=3600", "etag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.media_type)


def add_write_routes(
    app: FastAPI, traffic: LiveTraffic | None, config: ServiceConfig, admission: Admission, audit: AuditLog
) -> None:
    """Add writes to `app`, into the catalogues of all releases in use. Without `traffic` the service only reads."""
    limits = config.limits

    def writing() -> tuple[ItemService, list[ItemService]]:
        found = (
            [served.items for served in traffic.split.all if served.items is not None] if traffic is not None else []
        )
        if not found:
            raise ProblemError(
                403, "read-only", "this service does not write: start it with 'writable: true' and a catalogue"
            )
        return found[0], found[1:]

    @app.put(
        "/v1/items",
        tags=["items"],
        openapi_extra={"requestBody": _items_body()},
        responses=problem_responses(400, 403, 408, 413, 415, 422, 429, 503, 507),
    )
    async def put(request: Request) -> WriteResponse:
        """Put items into the catalogue, each in place of what was under its id.

        Answered once they would survive a loss of power. One that cannot be used is "rejected" and does not keep the
        others from it.
        """
        started = time.perf_counter()
        writing()  # before a body is read
        with admission.enter():
            asked = await read_body(request, PutItemsRequest, limits.batch_bytes, config.body_timeout_s)
            items, others = writing()
            answer = await items.put(asked.items, started)
            await asyncio.to_thread(audit.written, request, answer)
            for other in others:
                # A vector is of the main release's model: what has no other content can be of no other catalogue.
                await other.put([{**item, "vector": None} for item in asked.items], started)
        return answer

    @app.delete("/v1/items/{item_id}", tags=["items"], responses=problem_responses(403, 404, 422, 429, 503, 507))
    async def delete(item_id: ItemId, request: Request) -> WriteResponse:
        """Take one item out of the catalogue; answered once that would survive a loss of power."""
        started = time.perf_counter()
        items, others = writing()
        for other in others:
            with contextlib.suppress(AbsentError):
                await other.delete(unquote(item_id), started)
        answer = await items.delete(unquote(item_id), started)
        await asyncio.to_thread(audit.written, request, answer)
        return answer


def add_alias_routes(app: FastAPI, aliases: ReleaseFollower | None, config: ServiceConfig, audit: AuditLog) -> None:
    """Add to `app` what the names of its models stand for. Without `aliases` that is fixed."""
    exchanging = ThreadPoolExecutor(2, "exchange")  # it may take minutes, and others wait in the usual threads

    @app.get("/v1/aliases", tags=["models"])
    async def show() -> AliasesResponse:
        """What the names of models stand for, where the service follows aliases."""
        return AliasesResponse(aliases=_aliases(aliases.current if aliases is not None else {}))

    @app.put(
        "/v1/aliases/{name}",
        tags=["models"],
        openapi_extra={"requestBody": _alias_body()},
        responses=problem_responses(400, 403, 404, 408, 413, 422, 503),
    )
    async def put(name: AliasId, request: Request) -> AliasesResponse:
        """Have a name stand for another release, model and index together, without an answer lost in between.

        Answered once the new release answers here; other gateways follow as soon as they have opened it too.
        """
        if aliases is None:
            raise ProblemError(
                403, "no-releases", "what this service serves is fixed: start it with `releases` to exchange it"
            )
        asked = await read_body(request, AliasQuery, MAX_ALIAS_BODY_BYTES, config.body_timeout_s)
        alias = Alias.model_validate(asked.model_dump())
        await asyncio.get_running_loop().run_in_executor(exchanging, aliases.set, name, alias)
        await asyncio.to_thread(audit.switched, request, name, alias)
        return AliasesResponse(aliases=_aliases(aliases.current))


def add_status_routes(app: FastAPI, service: ModelService, bounds: Limits) -> None:
    """Add to `app` what the service says of itself."""

    @app.get("/v1/models", tags=["service"], responses=problem_responses(503))
    async def models() -> ModelsResponse:
        """The models in use."""
        found, releases = await service.describe(), service.releases()
        return ModelsResponse(
            models=[
                ModelDetails(
                    name=name,
                    kind=model.kind,
                    family=model.family,
                    hash=model.hash,
                    release=releases[name],
                    inputs=list(model.inputs),
                    dimension=model.dimension,
                    slices=list(model.slices),
                    levels=model.levels,
                    metrics=dict(model.metrics),
                    runtime=model.runtime,
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
    async def livez() -> StatusResponse:
        """This process answers."""
        return StatusResponse(status="alive")

    @app.get("/readyz", tags=["service"], responses=problem_responses(503))
    async def readyz() -> StatusResponse:
        """Every model answers too, and runs the bundle that it is to run. Not when the service is about to end."""
        if app.state.ending:
            raise unavailable("the service is about to end: ask another")
        await service.describe()
        return StatusResponse(status="ready")


def _aliases(found: Mapping[str, Alias]) -> dict[str, AliasAnswer]:
    return {name: AliasAnswer(**alias.model_dump()) for name, alias in found.items()}


def _items_body() -> dict[str, Any]:
    schema = schema_of(PutItemsRequest)
    schema["properties"]["items"]["items"] = schema_of(ItemInput)
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


def _alias_body() -> dict[str, Any]:
    example = {"release": "shoes@4", "canary": "shoes@5", "canary_weight": 0.05}
    content = {"application/json": {"schema": schema_of(AliasQuery), "example": example}}
    return {"required": True, "content": content}


def _picture() -> dict[int | str, dict[str, Any]]:
    content = {"image/*": {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "the encoded picture", "content": content}}
