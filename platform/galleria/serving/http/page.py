"""Routes of the search page and of the API reference. Both work without the internet."""

from functools import cache
from importlib import resources
from pathlib import PurePosixPath

from fastapi import APIRouter
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
"""Content security policy: the page loads from its own host only, and runs no script but its own files."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> Response:
    """Return the search page."""
    return _file_response(_page_files(), "index.html", {"content-security-policy": POLICY, "cache-control": "no-cache"})


@router.get("/page/{name}")
async def file(name: str) -> Response:
    """Return a file of the search page."""
    return _file_response(_page_files(), name, {"cache-control": "no-cache"})


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the API reference."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="galleria · HTTP interface",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="page/icon.svg",
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """Return a file of the API reference."""
    return _file_response(_docs_files(), name, {"cache-control": "public, max-age=86400"})


@cache
def _page_files() -> dict[str, bytes]:
    return _files("galleria.serving.http", "static")


@cache
def _docs_files() -> dict[str, bytes]:
    """Return the files of Swagger UI, which FastAPI itself loads from a public host."""
    return _files("fastapi_offline", "static")


def _files(package: str, folder: str) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in resources.files(package).joinpath(folder).iterdir() if file.is_file()
    }


def _file_response(files: dict[str, bytes], name: str, headers: dict[str, str]) -> Response:
    if name not in files:
        raise ProblemError(404, "not-found", f"there is no file {name[:200]!r} here")
    return Response(files[name], headers=headers, media_type=MEDIA_TYPES.get(PurePosixPath(name).suffix))
