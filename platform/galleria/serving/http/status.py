"""Routes of the service's state: models, limits, health and metrics."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from galleria.media.limits import Limits
from galleria.serving.http.services import ModelId, ServicesDep
from galleria.serving.schemas.openapi import example_response
from galleria.serving.schemas.problems import problem_responses, unavailable
from galleria.serving.schemas.responses import (
    ListedModel,
    ModelDetails,
    ModelsResponse,
    ReadyResponse,
    StatusResponse,
)
from galleria.serving.services.health import Health

HEALTH_TIMEOUT_S = 5.0
"""Prometheus gives up a scrape after 10 seconds."""

router = APIRouter(tags=["service"])


@router.get("/v1/models", responses=example_response("GET /v1/models") | problem_responses(503))
async def list_models(services: ServicesDep) -> ModelsResponse:
    """List the models in use."""
    descriptions, releases = await services.models.describe(), services.models.releases()
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
            for name, model in descriptions.items()
        ],
        data=[ListedModel(id=name) for name in descriptions],
    )


@router.get("/v1/models/{model}", responses=example_response("GET /v1/models/{model}") | problem_responses(404))
async def get_model(name: ModelId, services: ServicesDep) -> ListedModel:
    """Return one model, as OpenAI's clients read it."""
    services.models.get(name)
    return ListedModel(id=name)


@router.get("/v1/limits", responses=example_response("GET /v1/limits"))
async def get_limits(services: ServicesDep) -> Limits:
    """Return the limits on a request."""
    return services.config.limits


@router.get("/livez", responses=example_response("GET /livez"))
async def livez() -> StatusResponse:
    """Check that this process responds."""
    return StatusResponse(status="alive")


@router.get("/readyz", responses=example_response("GET /readyz") | problem_responses(503))
async def readyz(services: ServicesDep) -> ReadyResponse:
    """Check that the service can answer: its models, the storage of its catalogue, and its shards.

    Not ready once the service is about to end. Components that are degraded do not make it unready.
    """
    health = await services.health.check()
    if health.problem is not None:
        raise health.problem
    return ReadyResponse(status="ready", degraded=list(health.degraded))


@router.get(
    "/metrics",
    response_class=Response,
    responses={**problem_responses(401), 200: {"content": {"text/plain": {}}}},
)
async def get_metrics(services: ServicesDep) -> Response:
    """Return this gateway's metrics in Prometheus' format."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            health = await services.health.check()
    except TimeoutError:
        health = Health(unavailable(f"the health check took longer than {HEALTH_TIMEOUT_S:g} s"))
    services.metrics.observe_health(health)
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)
