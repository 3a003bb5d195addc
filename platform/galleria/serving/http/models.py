"""Routes of models that classify a picture or find events in a video."""

import time
from typing import Any

from fastapi import APIRouter, Request

from galleria.serving.http.services import ModelId, ServicesDep, SessionDep
from galleria.serving.schemas.openapi import BINARY, example_response, schema_of
from galleria.serving.schemas.problems import problem_responses
from galleria.serving.schemas.requests import ClassifyRequest, EventsRequest, RequestBody
from galleria.serving.schemas.responses import PredictionResponse

ERRORS = (400, 404, 408, 413, 415, 422, 429, 503)

router = APIRouter(tags=["models"])


def _body(kind: type[RequestBody], field: str, description: str, example: str) -> dict[str, Any]:
    file = {**BINARY, "description": description}
    form = {"type": "object", "properties": {field: file}, "required": [field], "additionalProperties": False}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": schema_of(kind), "example": {field: example}},
            },
        }
    }


@router.post(
    "/v1/classify/{model}",
    openapi_extra=_body(ClassifyRequest, "image", "a picture file", "iVBORw0KGgo…"),
    responses=example_response("POST /v1/classify/{model}") | problem_responses(*ERRORS),
)
async def classify(name: ModelId, request: Request, services: ServicesDep, session: SessionDep) -> PredictionResponse:
    """Classify a picture. The model's family decides what `result` holds."""
    started = time.perf_counter()
    model = await services.models.find(name, "classify", session)
    services.admission.queries.check()
    async with services.bodies.read(request, ClassifyRequest, services.config.limits.image_bytes) as query:
        with services.admission.queries.admit(), services.admission.model(name).admit():
            response = await services.models.answer(model, query.model_dump(), started)
    services.metrics.count_response(name, response)
    return response


@router.post(
    "/v1/events/{model}",
    openapi_extra=_body(EventsRequest, "video", "a video file", "AAAAIGZ0eXBpc29t…"),
    responses=example_response("POST /v1/events/{model}") | problem_responses(*ERRORS),
)
async def find_events(
    name: ModelId, request: Request, services: ServicesDep, session: SessionDep
) -> PredictionResponse:
    """Find the events of a video, and the moments that show them."""
    started = time.perf_counter()
    config = services.config
    model = await services.models.find(name, "events", session)
    services.admission.videos.check()
    async with services.bodies.read(request, EventsRequest, config.limits.video_bytes, config.video_timeout_s) as query:
        with services.admission.videos.admit():
            response = await services.models.answer(model, query.model_dump(), started)
    services.metrics.count_response(name, response)
    return response
