"""The models of a service by name, and requests to one of them, apart from HTTP."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from galleria.errors import MediaTooLargeError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.config import Kind
from galleria.serving.inference.client import ModelClient
from galleria.serving.inference.types import Description
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.responses import NamedModelVersion, PredictionResponse, PredictionStages, milliseconds
from galleria.serving.services.traffic import LiveTraffic

ENDPOINTS: Mapping[Kind, str] = {
    "search": "POST /v1/search",
    "classify": "POST /v1/classify/{name}",
    "events": "POST /v1/events/{name}",
}


class ModelService:
    """Finds models by name and runs them.

    Args:
        models: traffic of each model name.
        limits: on pictures and videos.
    """

    def __init__(self, models: Mapping[str, LiveTraffic], limits: Limits) -> None:
        self._models = models
        self._limits = limits

    async def describe(self) -> dict[str, Description]:
        """Describe every model.

        Raises:
            ProblemError: 503, one cannot be reached, or runs another bundle.
        """
        descriptions = await asyncio.gather(*(traffic.split.main.model.describe() for traffic in self._models.values()))
        return dict(zip(self._models, descriptions, strict=True))

    def releases(self) -> dict[str, str | None]:
        """Return the main release of each name, where it was published as one."""
        return {name: traffic.split.main.model.model.release for name, traffic in self._models.items()}

    def get(self, name: str, session: str = "") -> ModelClient:
        """Return a model by its name, for a request of a session.

        Raises:
            ProblemError: 404, there is none of that name.
        """
        return self._traffic(name).split.pick(session).model

    def versions(self, name: str) -> dict[str, ModelClient]:
        """Return the main version of a model, and then its canary if it has one, by the hashes of their bundles.

        Raises:
            ProblemError: 404, there is none of that name.
        """
        models = [served.model for served in self._traffic(name).split.all]
        return {model.model.hash: model for model in models}

    def get_version(self, name: str, version: str) -> ModelClient:
        """Return the version of a model with a hash.

        Raises:
            ProblemError: 404, there is none of that name, or of that hash.
        """
        versions = self.versions(name)
        if version not in versions:
            known = " and ".join(versions)
            detail = f"model {name!r} has no version {version[:200]!r}: this service runs {known}"
            raise ProblemError(404, "not-found", detail)
        return versions[version]

    def _traffic(self, name: str) -> LiveTraffic:
        traffic = self._models.get(name)
        if traffic is None:
            known = ", ".join(sorted(self._models))
            raise ProblemError(404, "not-found", f"there is no model {name[:200]!r}: this service has {known}")
        return traffic

    async def find(self, name: str, kind: Kind, session: str = "") -> ModelClient:
        """Return the model for a request of a kind and a session.

        Raises:
            ProblemError: 404, there is none of that name; 422, it has another endpoint; 503, it cannot be reached.
        """
        model = self.get(name, session)
        actual = await model.kind()
        if actual != kind:
            endpoint = ENDPOINTS[actual].format(name=name)
            raise ProblemError(
                422, "wrong-model", f"model {name!r} ({model.model.family}) has another endpoint: {endpoint}"
            )
        return model

    async def answer(self, model: ModelClient, row: Mapping[str, Any], started: float) -> PredictionResponse:
        """Run a model on a picture or a video whose reading began at `started` (of `time.perf_counter`).

        Raises:
            DataError: the row cannot be used.
            ProblemError: 503, the model cannot be reached, or runs another bundle.
        """
        if "image" in row:
            await asyncio.to_thread(media_type, row["image"], self._limits)  # rejects most bad bytes
        elif len(row["video"]) > self._limits.video_bytes:
            raise MediaTooLargeError(
                f"the video has {len(row['video']):,} bytes, over the limit of {self._limits.video_bytes:,}: shorten "
                "or shrink it"
            )
        read = time.perf_counter()
        result = await model.predict(row)
        done = time.perf_counter()
        return PredictionResponse(
            result=dict(result),
            model=NamedModelVersion(name=model.name, **model.model.model_dump()),
            stages=PredictionStages(read_ms=milliseconds(read - started), predict_ms=milliseconds(done - read)),
            latency_ms=milliseconds(done - started),
        )
