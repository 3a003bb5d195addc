"""The search page, and the reference of the HTTP interface. Both work without the internet."""

from importlib import resources
from pathlib import PurePosixPath

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from galleria.serving.schemas.problems import ProblemError

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""The page loads from its own host only, and runs no script but its own file."""


def add_pages(app: FastAPI) -> None:
    """Add `/` with its files, and `/docs`, to `app`."""
    page = _files("galleria.serving.http", "static")
    assets = _files("fastapi_offline", "static")  # Swagger UI, which FastAPI itself takes from a public host

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _answer(page, "index.html", {"content-security-policy": POLICY, "cache-control": "no-cache"})

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return _answer(page, name, {"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="galleria · HTTP interface",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="page/icon.svg",
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return _answer(assets, name, {"cache-control": "public, max-age=86400"})


def _files(package: str, folder: str) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in resources.files(package).joinpath(folder).iterdir() if file.is_file()
    }


def _answer(files: dict[str, bytes], name: str, headers: dict[str, str]) -> Response:
    if name not in files:
        raise ProblemError(404, "not-found", f"there is no file {name[:200]!r} here")
    return Response(files[name], headers=headers, media_type=MEDIA_TYPES.get(PurePosixPath(name).suffix))
