"""The HTTP interface of models that answer for themselves: classes of a picture, events of a video."""

import time
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request

from galleria.serving.config import ServiceConfig
from galleria.serving.http.admission import AdaptiveConcurrencyLimit, Admission
from galleria.serving.http.body import read_body
from galleria.serving.http.metrics import Metrics
from galleria.serving.schemas.openapi import schema_of
from galleria.serving.schemas.problems import problem_responses
from galleria.serving.schemas.requests import ClassifyRequest, EventsRequest, RequestBody
from galleria.serving.schemas.responses import PredictionResponse
from galleria.serving.services.models import ModelService

ModelId = Annotated[str, Path(alias="model", description="a model's name, of `GET /v1/models`")]

REFUSALS = (400, 404, 408, 413, 415, 422, 429, 503)


def add_model_routes(
    app: FastAPI,
    config: ServiceConfig,
    service: ModelService,
    pictures: Admission,
    videos: Admission,
    metrics: Metrics,
) -> None:
    """Add `/v1/classify` and `/v1/events` to `app`."""
    limits = config.limits
    paces: dict[str, AdaptiveConcurrencyLimit] = {}

    @app.post(
        "/v1/classify/{model}",
        tags=["models"],
        openapi_extra=_body(ClassifyRequest, "image", "a picture file", "iVBORw0KGgo…"),
        responses=problem_responses(*REFUSALS),
    )
    async def classify(name: ModelId, request: Request) -> PredictionResponse:
        """Classify a picture. The model's family decides what `result` holds."""
        started = time.perf_counter()
        model = await service.find(name, "classify")
        with pictures.enter():
            query = await read_body(request, ClassifyRequest, limits.image_bytes, config.body_timeout_s)
            if name not in paces:
                paces[name] = AdaptiveConcurrencyLimit(config.max_concurrent_queries, config.target_latency_s)
                metrics.pace(name, paces[name])
            with paces[name].enter():
                answer = await service.answer(model, query.model_dump(), started)
        metrics.stages(answer.stages.model_dump())
        return answer

    @app.post(
        "/v1/events/{model}",
        tags=["models"],
        openapi_extra=_body(EventsRequest, "video", "a video file", "AAAAIGZ0eXBpc29t…"),
        responses=problem_responses(*REFUSALS),
    )
    async def events(name: ModelId, request: Request) -> PredictionResponse:
        """Find the events of a video, and the moments that tell of them."""
        started = time.perf_counter()
        model = await service.find(name, "events")
        with videos.enter():
            query = await read_body(request, EventsRequest, limits.video_bytes, config.video_timeout_s)
            answer = await service.answer(model, query.model_dump(), started)
        metrics.stages(answer.stages.model_dump())
        return answer


def _body(kind: type[RequestBody], field: str, description: str, example: str) -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "description": description}
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
