"""The FastAPI application: every route, middleware and error handler of the HTTP interface."""

from fastapi import FastAPI

from galleria.serving.http import items, kserve, models, openai, page, releases, search, status
from galleria.serving.http.auth import AuthMiddleware
from galleria.serving.http.keys import Keys
from galleria.serving.http.metrics import MetricsMiddleware
from galleria.serving.http.middleware import RequestContextMiddleware
from galleria.serving.http.services import Services
from galleria.serving.schemas.problems import add_exception_handlers

ROUTERS = (
    search.router,
    items.router,
    openai.router,
    models.router,
    kserve.router,
    releases.router,
    status.router,
    page.router,
)


def make_app(services: Services, proxied: bool, keys: Keys | None = None) -> FastAPI:
    """Make the application.

    Args:
        services: what its routes work with.
        proxied: whether a proxy in front puts the request id into responses.
        keys: who may use it; without any it answers only clients on this machine.
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
    app.state.services = services
    add_exception_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(AuthMiddleware, keys=keys or Keys([]))
    app.add_middleware(MetricsMiddleware, metrics=services.metrics)
    app.add_middleware(RequestContextMiddleware, proxied=proxied)
    return app
