"""A model as the gateway asks it."""

from collections.abc import Callable, Mapping
from typing import Any

from galleria.serving.answers import ModelName
from galleria.serving.arguments import Kind
from galleria.serving.prediction import Description, Predicts
from galleria.serving.problems import unavailable

MATCH_SCORES = {"image": "no_match/score", "text": "text/no_match/score"}
"""Names among a bundle's metrics."""


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
        self, name: str, model: ModelName, predictor: Predicts, count: Callable[[int], None] | None = None
    ) -> None:
        self.name = name
        self.model = model
        self._predictor = predictor
        self._count = count
        self._described: Description | None = None

    async def describe(self) -> Description:
        """What is running.

        Raises:
            RefusedError: 503, it does not answer, or is of another bundle.
        """
        description = await self._predictor.describe()
        self._check_hash(description.hash)
        return description

    async def kind(self) -> Kind:
        """What it is asked for. Raises as `describe`."""
        return (await self._description()).kind

    async def match_score(self, row: Mapping[str, Any]) -> float | None:
        """What a hit of the right product scores for a query like `row`, where that was measured.

        Raises as `describe`. See `galleria.learn.open_set.no_match`.
        """
        if "level_weights" in row:  # other weights give other scores
            return None
        metrics = (await self._description()).metrics
        return metrics.get(MATCH_SCORES["image" if "image" in row else "text"])

    async def answer(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What its family presents of a row.

        Raises:
            DataError: the row cannot be used.
            RefusedError: 422, a field has no use here; 503, as `describe`.
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
