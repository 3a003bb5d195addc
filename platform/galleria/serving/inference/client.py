"""A model as the gateway asks it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from galleria.serving.config import BundleLocation, Kind
from galleria.serving.inference.types import Description, Prediction, Predictor
from galleria.serving.rpc import READY_SECONDS, call
from galleria.serving.schemas.problems import unavailable
from galleria.serving.schemas.responses import ModelVersion

MATCH_SCORES = {"image": "no_match/score", "text": "text/no_match/score"}
"""Names among a bundle's metrics."""


class Reached(NamedTuple):
    """How a model's `ModelServer` is reached, wherever it runs.

    Attributes:
        predict: answers for one row by a bundle.
        describe: says what a bundle is.
        load: has a bundle ready everywhere; returns once it is. Not for the event loop.
    """

    predict: Callable[[Mapping[str, Any], BundleLocation], Awaitable[Prediction]]
    describe: Callable[[BundleLocation], Awaitable[Description]]
    load: Callable[[BundleLocation], object]


def deployed(handle: Any) -> Reached:
    """Over the handle of a deployment."""
    return Reached(
        handle.remote,
        handle.describe.remote,
        lambda place: handle.broadcast("describe", place).results(timeout_s=READY_SECONDS),
    )


class ModelClient:
    """Asks a model by one bundle.

    Args:
        reached: the model.
        name: what it is called in messages.
        place: the bundle that is to answer.
        seconds: how long a call may take.
        video_timeout_s: the same, of a call with a video.
    """

    def __init__(
        self, reached: Reached, name: str, place: BundleLocation, seconds: float, video_timeout_s: float
    ) -> None:
        self._reached = reached
        self._place = place
        self._name = name
        self._seconds = seconds
        self._video_timeout_s = video_timeout_s

    async def predict(self, row: Mapping[str, Any]) -> Prediction:
        """As `Predictor.predict`.

        Raises:
            ProblemError: 429, the model is overloaded; 503, too slow or away.
        """
        seconds = self._video_timeout_s if "video" in row else self._seconds
        found: Prediction = await self._call(seconds, self._reached.predict, row, self._place)
        return found

    async def describe(self) -> Description:
        """What is running.

        Raises:
            ProblemError: 503, as `predict`.
        """
        description: Description = await self._call(self._seconds, self._reached.describe, self._place)
        return description

    async def _call(self, seconds: float, send: Callable[..., Any], *values: Any) -> Any:
        return await call(f"model {self._name!r}", seconds, send, *values)


class ServedModel:
    """One model, whose answers count only where they come from the bundle that the service was started with.

    Args:
        name: its name in addresses.
        model: its bundle.
        predictor: runs it.
        count: is told how many rows went through the network together, for each answer.

    Attributes:
        name: its name in addresses.
        model: its bundle.
    """

    def __init__(
        self, name: str, model: ModelVersion, predictor: Predictor, count: Callable[[int], None] | None = None
    ) -> None:
        self.name = name
        self.model = model
        self._predictor = predictor
        self._count = count
        self._described: Description | None = None

    async def describe(self) -> Description:
        """What is running.

        Raises:
            ProblemError: 503, it does not answer, or is of another bundle.
        """
        description = await self._predictor.describe()
        self._check_hash(description.hash)
        return description

    async def kind(self) -> Kind:
        """What it is asked for. Raises as `describe`."""
        return (await self._description()).kind

    async def match_score(self, row: Mapping[str, Any]) -> float | None:
        """What a hit of the right product scores for a query like `row`, where that was measured.

        Raises as `describe`. See `galleria.learn.metrics.open_set.no_match`.
        """
        if "level_weights" in row:  # other weights give other scores
            return None
        metrics = (await self._description()).metrics
        return metrics.get(MATCH_SCORES["image" if "image" in row else "text"])

    async def answer(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What its family presents of a row.

        Raises:
            DataError: the row cannot be used.
            ProblemError: 422, a field has no use here; 503, as `describe`.
        """
        outcome = await self._predictor.predict(row)
        self._check_hash(outcome.bundle_hash)
        if self._count is not None:
            self._count(outcome.together)
        return outcome.unwrap()

    async def _description(self) -> Description:
        """What is running; its replica is asked once."""
        if self._described is None:
            self._described = await self.describe()
        return self._described

    def _check_hash(self, found: str) -> None:
        if found != self.model.hash:
            raise unavailable(
                f"model {self.name!r} runs bundle {found[:12]}, but the service was started with "
                f"{self.model.hash[:12]}: start it again with bundles and a catalogue that belong together"
            )
