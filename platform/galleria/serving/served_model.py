"""A model as the gateway asks it."""

from collections.abc import Mapping
from typing import Any

from galleria.serving.answers import ModelName
from galleria.serving.arguments import Kind
from galleria.serving.prediction import Description, Predicts
from galleria.serving.problems import unavailable


class ServedModel:
    """One model, whose answers count only where they come from the bundle that the service was started with.

    Attributes:
        name: its name in addresses.
        model: its bundle.
    """

    def __init__(self, name: str, model: ModelName, predictor: Predicts) -> None:
        self.name = name
        self.model = model
        self._predictor = predictor
        self._kind: Kind | None = None

    async def describe(self) -> Description:
        """What is running.

        Raises:
            RefusedError: 503, it does not answer, or is of another bundle.
        """
        description = await self._predictor.describe()
        self._check_hash(description.hash)
        return description

    async def kind(self) -> Kind:
        """What it is asked for; its replica is asked once. Raises as `describe`."""
        if self._kind is None:
            self._kind = (await self.describe()).kind
        return self._kind

    async def answer(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What its family presents of a row.

        Raises:
            DataError: the row cannot be used.
            RefusedError: 422, a field has no use here; 503, as `describe`.
        """
        outcome = await self._predictor.predict(row)
        self._check_hash(outcome.bundle_hash)
        return outcome.unwrap()

    def _check_hash(self, found: str) -> None:
        if found != self.model.hash:
            raise unavailable(
                f"model {self.name!r} runs bundle {found[:12]}, but the service was started with "
                f"{self.model.hash[:12]}: start it again with bundles and a catalogue that belong together"
            )
