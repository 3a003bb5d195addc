"""The models that the gateway asks, by name, and what it does for a request to one of them."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from galleria.errors import MediaTooLargeError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.config import Kind
from galleria.serving.inference.client import ServedModel
from galleria.serving.inference.types import Description
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.responses import NamedModelVersion, PredictionResponse, PredictionStages, milliseconds
from galleria.serving.services.traffic import TrafficSplit

ADDRESSES: Mapping[Kind, str] = {
    "search": "POST /v1/search",
    "classify": "POST /v1/classify/{name}",
    "events": "POST /v1/events/{name}",
}


class ModelService:
    """Answers what is asked of a model by its name.

    Args:
        models: what the names of the service's models stand for.
        limits: bounds on pictures and videos.
    """

    def __init__(self, models: Mapping[str, TrafficSplit], limits: Limits) -> None:
        self._models = models
        self._limits = limits

    async def describe(self) -> dict[str, Description]:
        """Every model, once all have answered.

        Raises:
            ProblemError: 503, one does not answer, or is of another bundle.
        """
        descriptions = await asyncio.gather(*(slot.main.model.describe() for slot in self._models.values()))
        return dict(zip(self._models, descriptions, strict=True))

    def releases(self) -> dict[str, str | None]:
        """The release that each name stands for, where it was published as one."""
        return {name: slot.main.model.model.release for name, slot in self._models.items()}

    def get(self, name: str) -> ServedModel:
        """A model by its name.

        Raises:
            ProblemError: 404, there is none of that name.
        """
        slot = self._models.get(name)
        if slot is None:
            known = ", ".join(sorted(self._models))
            raise ProblemError(404, "not-found", f"there is no model {name[:200]!r}: this service has {known}")
        return slot.pick().model

    async def find(self, name: str, kind: Kind) -> ServedModel:
        """The model that a request is for.

        Raises:
            ProblemError: 404, there is none of that name; 422, it is asked at another address; 503, it does not answer.
        """
        model = self.get(name)
        found = await model.kind()
        if found != kind:
            address = ADDRESSES[found].format(name=name)
            raise ProblemError(
                422, "wrong-model", f"model {name!r} ({model.model.family}) is asked at another address: {address}"
            )
        return model

    async def answer(self, model: ServedModel, row: Mapping[str, Any], started: float) -> PredictionResponse:
        """A model's answer for a picture or a video whose reading began at `started` (of `time.perf_counter`).

        Raises:
            DataError: the row cannot be used.
            ProblemError: 503, the model cannot answer, or answers for another bundle.
        """
        if "image" in row:
            await asyncio.to_thread(media_type, row["image"], self._limits)  # refuses most bad bytes
        elif len(row["video"]) > self._limits.video_bytes:
            raise MediaTooLargeError(
                f"the video has {len(row['video']):,} bytes, over the limit of {self._limits.video_bytes:,}: shorten "
                "or shrink it"
            )
        read = time.perf_counter()
        result = await model.answer(row)
        done = time.perf_counter()
        return PredictionResponse(
            result=dict(result),
            model=NamedModelVersion(name=model.name, **model.model.model_dump()),
            stages=PredictionStages(read_ms=milliseconds(read - started), predict_ms=milliseconds(done - read)),
            latency_ms=milliseconds(done - started),
        )
