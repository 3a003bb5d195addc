"""The FastAPI application: every route, middleware and error handler of the HTTP interface."""

from operator import attrgetter
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from galleria.serving.http import items, kserve, models, openai, page, releases, search, status
from galleria.serving.http.auth import PUBLIC_PATHS, AuthMiddleware
from galleria.serving.http.keys import Keys
from galleria.serving.http.metrics import MetricsMiddleware
from galleria.serving.http.middleware import HeadMiddleware, RequestContextMiddleware
from galleria.serving.http.services import Services
from galleria.serving.schemas.openapi import complete
from galleria.serving.schemas.problems import add_exception_handlers, problem_responses

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

MIN_GZIP_BYTES = 10_000
"""Length of a response from which on it is compressed, in a thread, for clients that accept it."""

GZIP_LEVEL = 4
"""Of zlib: a ninth of the time of its highest, which saves another tenth of a JSON response."""

UNCOMPRESSED_TYPES = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "image/*", "application/octet-stream")
"""What is compressed already, or is sent in parts, and tensors."""

CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
EXPOSED_HEADERS = (
    "Accept-Ranges",
    "Content-Range",
    "ETag",
    "Inference-Header-Content-Length",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""Headers of responses that scripts of the allowed origins may read."""


class Application(FastAPI):
    """FastAPI with a complete OpenAPI document: shared schemas, keys, and the problems of every path."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        if self.openapi_schema is None:
            complete(super().openapi(), PUBLIC_PATHS, problem_responses(401, 403, 429))
        assert self.openapi_schema is not None
        return self.openapi_schema


def make_app(services: Services, proxied: bool, keys: Keys | None = None) -> FastAPI:
    """Make the application.

    Args:
        services: what its routes work with.
        proxied: whether a proxy in front puts the request id into responses.
        keys: who may use it; without any it answers only clients on this machine.
    """
    app = Application(
        title="galleria",
        description="Search a catalogue of products by picture, words or vector; classify pictures; find events in "
        "videos.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=attrgetter("name"),  # names of functions in generated clients
    )
    app.state.services = services
    add_exception_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    # From the innermost to the outermost.
    app.add_middleware(AuthMiddleware, keys=keys or Keys([]))
    app.add_middleware(
        GZipMiddleware,
        minimum_size=MIN_GZIP_BYTES,
        compresslevel=GZIP_LEVEL,
        thread_minimum_size=MIN_GZIP_BYTES,
        exclude_content_types=UNCOMPRESSED_TYPES,
    )
    app.add_middleware(HeadMiddleware)
    app.add_middleware(MetricsMiddleware, metrics=services.metrics)
    app.add_middleware(RequestContextMiddleware, proxied=proxied)
    if services.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.config.cors_origins,
            allow_methods=CORS_METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    return app
