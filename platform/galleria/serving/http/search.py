"""Routes of searches: one at a time, and several in one request."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from galleria.serving.concurrency import map_concurrently
from galleria.serving.config import SEARCH
from galleria.serving.http.body import check_search
from galleria.serving.http.long_response import LONG_LIST, respond
from galleria.serving.http.services import Services, ServicesDep, SessionDep
from galleria.serving.schemas.openapi import BINARY, example_response, form_fields, schema_of
from galleria.serving.schemas.problems import ProblemError, invalid_field, problem_responses, to_problem, unavailable
from galleria.serving.schemas.requests import BatchSearchRequest, SearchRequest
from galleria.serving.schemas.responses import BatchSearchResponse, SearchOutcome, SearchResponse, milliseconds
from galleria.serving.services.search import SearchService
from galleria.serving.services.traffic import search_service

MAX_BATCH_HITS = 10_000
"""Hits that the searches of one request may compute together, including those that `offset` and `after` skip."""

MAX_BATCH_CONCURRENCY = 8
"""Searches of one request in flight at a time, so that other requests are answered too."""

ERRORS = (400, 404, 408, 413, 415, 422, 429, 503)

router = APIRouter(tags=["search"])


def _search_body() -> dict[str, Any]:
    form = form_fields(SearchRequest, leave_out=("vector", "mix"))
    form["filter"] = {"type": "string", "description": form["filter"]["description"], "examples": ['{"colour": "red"}']}
    form["image"] = {**BINARY, "description": "a picture file"}
    form["level_weights"] = {
        "type": "string",
        "description": form["level_weights"]["description"],
        "examples": ["0.2,0.8"],
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": form, "additionalProperties": False}},
            "application/json": {
                "schema": schema_of(SearchRequest),
                "examples": {
                    "next page": {"value": {"text": "red shoes", "k": 10, "after": "NWExY1yPwvUoXOo_EQAAAAAAAAAKAA"}},
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


@router.post(
    "/v1/search",
    response_model=SearchResponse,
    openapi_extra={"requestBody": _search_body()},
    responses=example_response("POST /v1/search") | problem_responses(*ERRORS),
)
async def search(request: Request, services: ServicesDep, session: SessionDep) -> SearchResponse | Response:
    """Find the items most similar to a picture, to words, or to a vector."""
    started = time.perf_counter()
    search_service(services.search)  # before the body is read
    services.admission.queries.check()
    async with services.bodies.read_search(request) as query:
        # A version belongs to the main release's catalogue: that is the one a write returns.
        service = search_service(services.search, session if query.min_version is None else None)
        await service.wait_for_version(query.min_version)
        with services.admission.queries.admit(), services.admission.model(SEARCH).admit():
            response = await service.search(query, started)
    services.metrics.count_response(SEARCH, response)
    if len(response.hits) < LONG_LIST:
        return response
    return await respond(services.bodies, response.model_copy(update={"hits": []}), "hits", response.hits)


def _batch_body() -> dict[str, Any]:
    schema = schema_of(BatchSearchRequest, elements={"queries": SearchRequest})
    example = {"queries": [{"text": "red shoes", "k": 3}, {"item": "shoe-17", "k": 3}]}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


@router.post(
    "/v1/search/batch",
    response_model=BatchSearchResponse,
    openapi_extra={"requestBody": _batch_body()},
    responses=example_response("POST /v1/search/batch") | problem_responses(*ERRORS),
)
async def search_batch(request: Request, services: ServicesDep, session: SessionDep) -> Response:
    """Run several searches together. A search that fails has no effect on the others."""
    started = time.perf_counter()
    search_service(services.search)  # before the body is read
    services.admission.queries.check()
    limits = services.config.limits
    async with services.bodies.read(request, BatchSearchRequest, limits.batch_bytes, list_field="queries") as body:
        versions = [query["min_version"] for query in body.queries if isinstance(query.get("min_version"), int)]
        latest = not any("min_version" in query for query in body.queries)
        service = search_service(services.search, session if latest else None)
        await _wait_for_version(service, max(versions, default=None))
        batch = _Batch(services, service, started, request.state.request_id)
        with services.admission.queries.admit():
            outcomes = await map_concurrently(batch.search, body.queries, batch.concurrency)
    outline = BatchSearchResponse(outcomes=[], latency_ms=milliseconds(time.perf_counter() - started))
    return await respond(services.bodies, outline, "outcomes", outcomes)


async def _wait_for_version(service: SearchService, min_version: int | None) -> None:
    """Wait for the newest version of a batch. If there is none such, only the searches that need it fail."""
    try:
        await service.wait_for_version(min_version)
    except ProblemError as error:
        if error.status != 503:
            raise


class _Batch:
    """The searches of one request, which share a budget of hits.

    Attributes:
        concurrency: searches in flight at a time.
    """

    def __init__(self, services: Services, service: SearchService, started: float, request_id: str) -> None:
        self._services = services
        self._service = service
        self._started = started
        self._request_id = request_id
        self._limit = services.admission.model(SEARCH)
        self.concurrency = max(1, min(MAX_BATCH_CONCURRENCY, int(self._limit.limit) // 2))
        self._hits_left = MAX_BATCH_HITS

    async def search(self, body: dict[str, Any]) -> SearchOutcome:
        """Run one search; its errors are its own."""
        try:
            response = await self._search(body)
        except Exception as error:
            problem = to_problem(error, self._request_id)
            return SearchOutcome(status=problem.status, problem=problem)
        return SearchOutcome(status=200, answer=response)

    async def _search(self, body: dict[str, Any]) -> SearchResponse:
        query = await asyncio.to_thread(SearchRequest.model_validate, body)
        check_search(query, self._services.config.limits)
        self._hits_left -= query.end
        if self._hits_left < 0:
            raise invalid_field("k", f"of all queries together is over the limit of {MAX_BATCH_HITS:,}")
        if time.perf_counter() - self._started > self._services.config.predict_timeout_s:
            raise unavailable("the queries before it took too long: send fewer")
        with self._limit.admit():
            response = await self._service.search(query, time.perf_counter())
        self._services.metrics.count_response(SEARCH, response)
        return response
