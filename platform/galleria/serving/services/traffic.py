"""What the gateway has at hand for each name of a model, and how that is exchanged while requests go on."""

import random
from dataclasses import dataclass

from galleria.serving.inference.client import ServedModel
from galleria.serving.retrieval.searcher import Searcher
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.services.items import ItemService
from galleria.serving.services.search import SearchService


@dataclass(frozen=True, slots=True)
class ServedRelease:
    """A model, and what searches and writes its catalogue. All of one answer comes from one of these.

    Attributes:
        model: the model.
        searcher: of a model that searches.
        search: of a model that searches.
        items: of a model that searches, where the service writes.
    """

    model: ServedModel
    searcher: Searcher | None = None
    search: SearchService | None = None
    items: ItemService | None = None


class TrafficSplit:
    """What a name stands for. A request picks once, and stays with what it has picked.

    Attributes:
        main: answers.
        canary: answers instead, for a share of the requests.
        canary_weight: of the requests that go to the canary.
    """

    def __init__(self, main: ServedRelease, canary: ServedRelease | None = None, canary_weight: float = 0.0) -> None:
        self.put(main, canary, canary_weight)

    def put(self, main: ServedRelease, canary: ServedRelease | None = None, canary_weight: float = 0.0) -> None:
        """Stand for something else from now on."""
        self._now = (main, canary, canary_weight)  # one assignment: no request sees half of it

    @property
    def main(self) -> ServedRelease:
        """What answers."""
        return self._now[0]

    @property
    def all(self) -> tuple[ServedRelease, ...]:
        """Whatever may answer."""
        main, canary, _ = self._now
        return (main,) if canary is None else (main, canary)

    def pick(self) -> ServedRelease:
        """What answers the next request."""
        main, canary, weight = self._now
        return canary if canary is not None and random.random() < weight else main


def searching(slot: TrafficSplit | None, canary: bool = False) -> SearchService:
    """What answers a search, or (with `canary`) may be picked to.

    Raises:
        ProblemError: 404, there is no catalogue.
    """
    service = (slot.pick() if canary else slot.main).search if slot is not None else None
    if service is None:
        raise ProblemError(
            404, "not-found", "this service holds no catalogue: start it with a bundle, a table and an index"
        )
    return service
