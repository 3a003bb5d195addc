"""Routes of aliases: the release that each model name resolves to."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from galleria.pipelines.releases import Alias
from galleria.serving.http.services import ServicesDep, origin_of
from galleria.serving.schemas.openapi import example_response, schema_of
from galleria.serving.schemas.problems import ProblemError, problem_responses
from galleria.serving.schemas.responses import AliasesResponse

MAX_BODY_BYTES = 65_536

AliasId = Annotated[str, Path(description="an alias: the name of a model")]

router = APIRouter(tags=["models"])


@router.get("/v1/aliases", responses=example_response("GET /v1/aliases"))
async def list_aliases(services: ServicesDep) -> AliasesResponse:
    """List the releases that model names resolve to, where the service follows aliases."""
    return AliasesResponse(aliases=services.releases.current if services.releases is not None else {})


def _alias_body() -> dict[str, Any]:
    example = {"release": "shoes@4", "canary": "shoes@5", "canary_weight": 0.05}
    content = {"application/json": {"schema": schema_of(Alias), "example": example}}
    return {"required": True, "content": content}


@router.put(
    "/v1/aliases/{name}",
    openapi_extra={"requestBody": _alias_body()},
    responses=example_response("PUT /v1/aliases/{name}") | problem_responses(400, 403, 404, 408, 413, 422, 503),
)
async def put_alias(name: AliasId, request: Request, services: ServicesDep) -> AliasesResponse:
    """Point an alias at another release, model and index together, without a failed request in between.

    Answered once this gateway uses the new release; other gateways follow as soon as they have loaded it too.
    """
    if services.releases is None:
        raise ProblemError(
            403, "no-releases", "this service does not follow releases: start it with `releases` to exchange its models"
        )
    async with services.bodies.read(request, Alias, MAX_BODY_BYTES) as alias:
        pass  # it is small, and an exchange may take minutes: its memory does not count as in use
    await asyncio.get_running_loop().run_in_executor(_exchange_threads(), services.releases.set, name, alias)
    await asyncio.to_thread(services.audit.log_alias, origin_of(request), name, alias)
    return AliasesResponse(aliases=services.releases.current)


@lru_cache(maxsize=1)
def _exchange_threads() -> ThreadPoolExecutor:
    """Return threads for exchanges alone: one may take minutes, and would block the event loop's pool."""
    return ThreadPoolExecutor(2, "exchange")
