"""The deployment that speaks HTTP. Holds the catalogue, asks the models; never imports torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from galleria.catalog.live import LiveCatalog
from galleria.serving.access import Access
from galleria.serving.admission import Admission
from galleria.serving.answers import ModelName
from galleria.serving.arguments import SEARCH, ServiceArguments
from galleria.serving.embeddings import add_embedding_routes
from galleria.serving.items import ItemService
from galleria.serving.keys import Keys
from galleria.serving.kserve import add_kserve_routes
from galleria.serving.metrics import Measured, Metrics, add_metrics_route
from galleria.serving.middleware import RequestScope
from galleria.serving.model_routes import add_model_routes
from galleria.serving.models import ModelService, ServedModel
from galleria.serving.pages import add_pages
from galleria.serving.problems import answer_problems
from galleria.serving.remote import RemoteModel, RemoteWriter
from galleria.serving.routes import add_catalogue_routes, add_status_routes, add_write_routes
from galleria.serving.searcher import LocalSearcher, Searcher
from galleria.serving.service import SearchService
from galleria.serving.shards import ShardedSearcher
from galleria.serving.writer import Writes


def make_app(
    arguments: ServiceArguments,
    models: Mapping[str, ServedModel],
    searcher: Searcher | None,
    proxied: bool,
    writer: Writes | None = None,
    keys: Keys | None = None,
) -> FastAPI:
    """The HTTP service.

    Args:
        arguments: limits on requests.
        models: whom to ask, by name; "search" is the one that embeds.
        searcher: the catalogue, of a service that searches.
        proxied: a proxy in front puts the request id into answers.
        writer: of a service that writes to the catalogue too.
        keys: without any, only this machine is answered.
    """
    app = FastAPI(
        title="galleria",
        description="Search a catalogue of products by picture, words or vector; classify pictures; find events in "
        "videos.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    limits = arguments.limits
    metrics = Metrics(models, searcher)
    search = items = None
    if searcher is not None:
        search = SearchService(searcher, models[SEARCH], limits, arguments.threads, arguments.version_seconds)
    if searcher is not None and writer is not None:
        items = ItemService(searcher.catalog, models[SEARCH], writer, limits, arguments.stores)
    queries = Admission(arguments.waiting, "queries")
    videos = Admission(arguments.videos_waiting, "videos")
    service = ModelService(models, limits)
    answer_problems(app)
    add_catalogue_routes(app, search, arguments, queries, metrics)
    add_write_routes(app, items, arguments, Admission(arguments.writes_waiting, "writes"))
    add_embedding_routes(app, models.get(SEARCH), arguments, queries)
    add_model_routes(app, arguments, service, queries, videos, metrics)
    add_kserve_routes(app, service, arguments, queries)
    add_status_routes(app, service, limits)
    add_metrics_route(app, metrics)
    add_pages(app)
    app.add_middleware(Access, keys=keys or Keys([]))
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(RequestScope, proxied=proxied)
    return app


class Gateway:
    """One replica of the HTTP service."""

    def __init__(
        self,
        arguments: ServiceArguments,
        models: Mapping[str, ModelName],
        handles: Mapping[str, Any],
        writer: Any = None,
        keys: Keys | None = None,
        shards: Sequence[Any] = (),
    ) -> None:
        """Open the catalogue. Models and handles go by the same names; without `shards` it is searched in this process.

        Raises:
            GalleriaError: table or index are missing, damaged, or do not belong to the bundle.
        """
        served = {
            name: ServedModel(
                name,
                models[name],
                RemoteModel(handle, name, arguments.predict_seconds, arguments.video_seconds),
            )
            for name, handle in handles.items()
        }
        searcher: Searcher | None = None
        if SEARCH in models:
            held = () if shards else None
            catalog = LiveCatalog(arguments.table, arguments.index, models[SEARCH].hash, held)
            catalog.follow()
            searcher = (
                ShardedSearcher(catalog, shards, arguments.shard_seconds)
                if shards
                else LocalSearcher(catalog, arguments.threads)
            )
        writes = RemoteWriter(writer, arguments.predict_seconds) if writer is not None else None
        self._app = make_app(arguments, served, searcher, proxied=True, writer=writes, keys=keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the catalogue is open."""
        return self._app
