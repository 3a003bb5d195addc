"""The gateway's client of a model."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from galleria.serving.config import BundleLocation, Kind
from galleria.serving.inference.types import Description, Prediction
from galleria.serving.rpc import READY_TIMEOUT_S, call
from galleria.serving.schemas.problems import unavailable
from galleria.serving.schemas.responses import ModelVersion

MATCH_METRICS = {"image": "no_match", "text": "text/no_match"}
"""Prefixes of `/score` and `/kept` among a bundle's metrics."""

MIN_KEPT = 0.5
"""Smallest share of queries for a product of the gallery that keep their match at the match score, for which a service
says "no match". Below it that would be wrong for more than half of the ordinary queries.
"""


class ModelBackend(Protocol):
    """Runs the bundles of a model: a `ModelServer` in this process, or a `DeployedModel`."""

    def predict(self, row: Mapping[str, Any], location: BundleLocation) -> Awaitable[Prediction]:
        """Run the bundle on {"image": bytes}, {"text": str} or {"video": bytes}, and options that its family reads."""

    def describe(self, location: BundleLocation) -> Awaitable[Description]:
        """Describe the bundle. Fails where the model does not respond."""

    def load(self, location: BundleLocation) -> object:
        """Load the bundle in every replica; return once all are ready. Blocks: not for the event loop."""


class DeployedModel:
    """A `ModelServer` deployment behind its Serve handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def predict(self, row: Mapping[str, Any], location: BundleLocation) -> Awaitable[Prediction]:
        """As `ModelBackend.predict`."""
        response: Awaitable[Prediction] = self._handle.predict.remote(row, location)
        return response

    def describe(self, location: BundleLocation) -> Awaitable[Description]:
        """As `ModelBackend.describe`."""
        response: Awaitable[Description] = self._handle.describe.remote(location)
        return response

    def load(self, location: BundleLocation) -> object:
        """As `ModelBackend.load`."""
        return self._handle.broadcast("describe", location).results(timeout_s=READY_TIMEOUT_S)


class ModelClient:
    """Calls a model for one release. Accepts only predictions that its bundle made.

    Args:
        name: of the model, in URLs.
        model: the release.
        location: its bundle.
        backend: runs the bundle.
        predict_timeout_s: how long a call may take, in seconds.
        video_timeout_s: the same for a call with a video.
        count_batch: called with the number of rows in the batch of each prediction.

    Attributes:
        name: of the model, in URLs.
        model: the release.
    """

    def __init__(
        self,
        name: str,
        model: ModelVersion,
        location: BundleLocation,
        backend: ModelBackend,
        predict_timeout_s: float,
        video_timeout_s: float,
        count_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self._location = location
        self._backend = backend
        self._predict_timeout_s = predict_timeout_s
        self._video_timeout_s = video_timeout_s
        self._count_batch = count_batch
        self._description: Description | None = None

    async def predict(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the family presents of a row.

        Raises:
            DataError: the row cannot be used.
            ProblemError: 422, a field has no use here; 429, the model is overloaded; 503, it is too slow, cannot be
                reached, or runs another bundle.
        """
        timeout_s = self._video_timeout_s if "video" in row else self._predict_timeout_s
        prediction: Prediction = await call(
            f"model {self.name!r}", timeout_s, self._backend.predict, row, self._location
        )
        self._check_hash(prediction.bundle_hash)
        if self._count_batch is not None:
            self._count_batch(prediction.batch_size)
        return prediction.unwrap()

    async def describe(self) -> Description:
        """Describe the running bundle.

        Raises:
            ProblemError: 503, the model cannot be reached, or runs another bundle.
        """
        description: Description = await call(
            f"model {self.name!r}", self._predict_timeout_s, self._backend.describe, self._location
        )
        self._check_hash(description.hash)
        return description

    async def kind(self) -> Kind:
        """Return the kind of requests that the model is for. Raises as `describe`."""
        return (await self._described()).kind

    async def inputs(self) -> tuple[str, ...]:
        """Return the columns that the model reads, of "image", "text" and "video". Raises as `describe`."""
        return (await self._described()).inputs

    async def match_score(self, row: Mapping[str, Any]) -> float | None:
        """Return the score below which a hit is no match, for a query like `row`; None where that is not known.

        It is known where the bundle was measured for such queries, and at least `MIN_KEPT` of them keep their match.
        See `galleria.learn.metrics.open_set.no_match`. Raises as `describe`.
        """
        if "level_weights" in row:  # other weights give other scores
            return None
        metrics = (await self._described()).metrics
        prefix = MATCH_METRICS["image" if "image" in row else "text"]
        return metrics.get(f"{prefix}/score") if metrics.get(f"{prefix}/kept", 0.0) >= MIN_KEPT else None

    async def _described(self) -> Description:
        """Describe the bundle, which never changes, with one call in all."""
        if self._description is None:
            self._description = await self.describe()
        return self._description

    def _check_hash(self, bundle_hash: str) -> None:
        if bundle_hash != self.model.hash:
            raise unavailable(
                f"model {self.name!r} runs bundle {bundle_hash[:12]}, but the service was started with "
                f"{self.model.hash[:12]}: start it again with bundles and a catalogue that belong together"
            )
