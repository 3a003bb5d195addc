"""The deployment that speaks HTTP. Holds the catalogue, asks the embedder; never imports torch."""

from typing import Any

from fastapi import FastAPI

from galleria.serving.middleware import RequestScope
from galleria.serving.pages import add_pages
from galleria.serving.problems import answer_problems
from galleria.serving.remote import RemoteEmbedder
from galleria.serving.routes import add_routes
from galleria.serving.schemas import ModelName, ServiceArguments
from galleria.serving.searcher import LocalSearcher
from galleria.serving.service import SearchService


def make_app(service: SearchService, waiting: int, read_seconds: float, proxied: bool) -> FastAPI:
    """The HTTP service.

    Args:
        service: answers the requests.
        waiting: most searches at a time.
        read_seconds: how long a body may take to arrive.
        proxied: a proxy in front puts the request id into answers.
    """
    app = FastAPI(
        title="galleria",
        description="Search a catalogue of products by picture, words or vector.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_problems(app)
    add_routes(app, service, waiting, read_seconds)
    add_pages(app)
    app.add_middleware(RequestScope, proxied=proxied)
    return app


class Gateway:
    """One replica of the HTTP service."""

    def __init__(self, arguments: ServiceArguments, model: ModelName, embedder: Any) -> None:
        """Open the catalogue.

        Raises:
            GalleriaError: table or index are missing, damaged, or do not belong to the bundle.
        """
        searcher = LocalSearcher(arguments.table, arguments.index, model.hash)
        remote = RemoteEmbedder(embedder, arguments.embed_seconds)
        service = SearchService(searcher, remote, model, arguments.limits, arguments.threads)
        self._app = make_app(service, arguments.waiting, arguments.read_seconds, proxied=True)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the catalogue is open."""
        return self._app
