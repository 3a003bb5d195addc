"""Routes of the catalogue and its items: reads and writes."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from galleria.serving.http.ranges import ranged_response
from galleria.serving.http.services import Services, ServicesDep, origin_of
from galleria.serving.schemas.item_paths import item_id_of
from galleria.serving.schemas.openapi import BINARY, example_response, schema_of
from galleria.serving.schemas.problems import ProblemError, problem_responses
from galleria.serving.schemas.requests import ItemInput, PutItemsRequest
from galleria.serving.schemas.responses import CatalogResponse, ItemResponse, WriteResponse
from galleria.serving.services.traffic import search_service
from galleria.serving.services.writes import WriteService

MinVersion = Annotated[int | None, Query(ge=1, description="read no older version of the catalogue than this")]
ItemId = Annotated[str, Path(description="an item's id, percent-encoded", examples=["shoe-17"])]

router = APIRouter(tags=["items"])


@router.get("/v1/catalog", responses=example_response("GET /v1/catalog") | problem_responses(404))
async def get_catalog(services: ServicesDep) -> CatalogResponse:
    """Return the catalogue's version, its number of items, and the state of its index."""
    return await search_service(services.search).catalog(services.config.writable)


# The path is matched as it was sent (see RequestContextMiddleware), so that ids may hold any character.
@router.get(
    "/v1/items/{item_id}", responses=example_response("GET /v1/items/{item_id}") | problem_responses(404, 422, 503)
)
async def get_item(
    item_id: ItemId,
    services: ServicesDep,
    min_version: MinVersion = None,
    with_vector: Annotated[bool, Query(description="return the item's vector, too")] = False,
) -> ItemResponse:
    """Return the fields of one item."""
    return await search_service(services.search).item(item_id_of(item_id), min_version, with_vector)


def _picture_response() -> dict[int | str, dict[str, Any]]:
    content = {"image/*": {"schema": BINARY}}
    return {
        200: {"description": "the encoded picture", "content": content},
        206: {"description": "the `Range` of it that the request names", "content": content},
        304: {"description": "the picture of `If-None-Match` is the newest"},
    }


@router.get(
    "/v1/items/{item_id}/image",
    response_class=Response,
    responses=_picture_response() | problem_responses(404, 416, 422, 502),
)
async def get_item_image(item_id: ItemId, request: Request, services: ServicesDep) -> Response:
    """Return the picture of one item."""
    stored = await search_service(services.search).picture(item_id_of(item_id))
    headers = {"etag": stored.tag}
    if _names(request.headers.get("if-none-match", ""), stored.tag):
        return Response(status_code=304, headers=headers)
    return ranged_response(request.headers, stored.data, stored.media_type, headers)


def _names(if_none_match: str, tag: str) -> bool:
    """Return whether a client has the picture of a tag. A proxy that compresses makes the tag a weak one."""
    return any(known.strip().removeprefix("W/") in (tag, "*") for known in if_none_match.split(","))


def _items_body() -> dict[str, Any]:
    schema = schema_of(PutItemsRequest, elements={"items": ItemInput})
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


@router.put(
    "/v1/items",
    openapi_extra={"requestBody": _items_body()},
    responses=example_response("PUT /v1/items") | problem_responses(400, 403, 408, 413, 415, 422, 429, 503, 507),
)
async def put_items(request: Request, services: ServicesDep) -> WriteResponse:
    """Put items into the catalogue; each replaces the item of its id.

    Answered once the write is durable. An item that cannot be used is "rejected" without effect on the others.
    """
    started = time.perf_counter()
    writes = _writes(services)  # before the body is read
    services.admission.writes.check()
    limits = services.config.limits
    async with services.bodies.read(request, PutItemsRequest, limits.batch_bytes, list_field="items") as body:
        with services.admission.writes.admit():
            return await writes.put(body.items, started, origin_of(request))


@router.delete(
    "/v1/items/{item_id}",
    responses=example_response("DELETE /v1/items/{item_id}") | problem_responses(403, 422, 429, 503, 507),
)
async def delete_item(item_id: ItemId, request: Request, services: ServicesDep) -> WriteResponse:
    """Delete one item from the catalogue; answered once the deletion is durable.

    The status is "absent" where there is no such item, so that a request can be sent again if its response was lost.
    """
    started = time.perf_counter()
    writes = _writes(services)
    with services.admission.writes.admit():
        return await writes.delete(item_id_of(item_id), started, origin_of(request))


def _writes(services: Services) -> WriteService:
    if services.writes is None:
        raise ProblemError(
            403, "read-only", "this service does not write: start it with 'writable: true' and a catalogue"
        )
    return services.writes
