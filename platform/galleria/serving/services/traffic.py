"""What the gateway holds for each model name, exchanged as a whole while requests go on."""

from dataclasses import dataclass

from galleria.serving.inference.client import ModelClient
from galleria.serving.retrieval.searcher import Searcher
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.services.items import ItemService
from galleria.serving.services.search import SearchService
from galleria.serving.traffic_split import TrafficSplit


@dataclass(frozen=True, slots=True)
class ServedRelease:
    """A model, and what searches and writes its catalogue. Every response comes from exactly one of these.

    Attributes:
        model: the model.
        searcher: of a model that searches.
        search: of a model that searches.
        items: prepares items for its catalogue, where the service writes.
    """

    model: ModelClient
    searcher: Searcher | None = None
    search: SearchService | None = None
    items: ItemService | None = None

    def close(self) -> None:
        """Stop following its catalogue; requests that have begun can still use it."""
        if self.searcher is not None:
            self.searcher.catalog.close()


@dataclass(slots=True)
class LiveTraffic:
    """The current split of a model name's requests.

    Attributes:
        split: assigned as a whole, so no request sees half of an exchange.
    """

    split: TrafficSplit[ServedRelease]


def search_service(traffic: LiveTraffic | None, session: str | None = None) -> SearchService:
    """Return the main search service or, for a request of a session, the one that `TrafficSplit.pick` returns.

    Raises:
        ProblemError: 404, there is no catalogue.
    """
    service = None
    if traffic is not None:
        service = (traffic.split.main if session is None else traffic.split.pick(session)).search
    if service is None:
        raise ProblemError(
            404, "not-found", "this service holds no catalogue: start it with a bundle, a table and an index"
        )
    return service
