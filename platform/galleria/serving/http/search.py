"""The HTTP interface of searches, one at a time and several together."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request

from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.http.admission import AdaptiveConcurrencyLimit, Admission
from galleria.serving.http.body import check_search, read_body, read_search
from galleria.serving.http.metrics import Metrics
from galleria.serving.schemas.openapi import schema_of
from galleria.serving.schemas.problems import invalid_field, problem_responses, to_problem, unavailable
from galleria.serving.schemas.requests import BatchSearchRequest, SearchRequest
from galleria.serving.schemas.responses import BatchSearchResponse, SearchOutcome, SearchResponse, milliseconds
from galleria.serving.services.traffic import LiveTraffic, search_service

MAX_BATCH_HITS = 10_000
"""Hits that the searches of one request may ask for, those that `offset` leaves out among them."""

TOGETHER = 8
"""Searches of one request that are under way at a time, at the most: others want to be answered too."""


def add_search_routes(
    app: FastAPI, traffic: LiveTraffic | None, config: ServiceConfig, admission: Admission, metrics: Metrics
) -> None:
    """Add the search to `app`. Without `traffic` it answers that there is no catalogue."""
    limits = config.limits
    pace = AdaptiveConcurrencyLimit(config.max_concurrent_queries, config.target_latency_s)
    metrics.pace(SEARCH, pace)

    @app.post(
        "/v1/search",
        tags=["search"],
        openapi_extra={"requestBody": _search_body()},
        responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
    )
    async def search(request: Request) -> SearchResponse:
        """Find the items most similar to a picture, to words, or to a vector."""
        started = time.perf_counter()
        search_service(traffic)  # before a body is read
        with admission.enter():
            query = await read_search(request, limits, config.body_timeout_s)
            newest = query.min_version is None  # else it may have to wait for a write
            with pace.enter(counts=newest):
                # A version is one of the main catalogue's: a write's answer names no other.
                answer = await search_service(traffic, canary=newest).search(query, started)
        metrics.stages(answer.stages.model_dump())
        return answer

    @app.post(
        "/v1/search/batch",
        tags=["search"],
        openapi_extra={"requestBody": _searches_body()},
        responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
    )
    async def searches(request: Request) -> BatchSearchResponse:
        """Answer several searches together. One that cannot be answered does not keep the others from it."""
        started = time.perf_counter()
        search_service(traffic)  # before a body is read
        with admission.enter():
            asked = await read_body(request, BatchSearchRequest, limits.batch_bytes, config.body_timeout_s)
            if len(asked.queries) > limits.batch_items:
                raise invalid_field("queries", f"are {len(asked.queries)}, over the limit of {limits.batch_items}")
            service = search_service(traffic, canary=not any("min_version" in query for query in asked.queries))
            left = MAX_BATCH_HITS
            together = asyncio.Semaphore(max(1, min(TOGETHER, int(pace.limit) // 2)))

            async def answer(sent: dict[str, Any]) -> SearchOutcome:
                nonlocal left
                try:
                    async with together:
                        query = await asyncio.to_thread(SearchRequest.model_validate, sent)
                        check_search(query, limits)
                        left -= query.k + query.offset
                        if left < 0:
                            raise invalid_field("k", f"of all queries together is over the limit of {MAX_BATCH_HITS:,}")
                        if time.perf_counter() - started > config.predict_timeout_s:
                            raise unavailable("the queries before it took too long: send fewer")
                        with pace.enter(counts=query.min_version is None):
                            found = await service.search(query, time.perf_counter())
                        metrics.stages(found.stages.model_dump())
                        return SearchOutcome(status=200, answer=found)
                except Exception as error:
                    problem = to_problem(error, request.state.request_id)
                    return SearchOutcome(status=problem.status, problem=problem)

            outcomes = await asyncio.gather(*map(answer, asked.queries))
        return BatchSearchResponse(outcomes=outcomes, latency_ms=milliseconds(time.perf_counter() - started))


def _search_body() -> dict[str, Any]:
    schema = schema_of(SearchRequest)
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


def _searches_body() -> dict[str, Any]:
    schema = schema_of(BatchSearchRequest)
    schema["properties"]["queries"]["items"] = schema_of(SearchRequest)
    example = {"queries": [{"text": "red shoes", "k": 3}, {"item": "shoe-17", "k": 3}]}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
