"""Errors as application/problem+json (RFC 9457), with the HTTP status of their class."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from galleria.errors import (
    CatalogFullError,
    DataError,
    GalleriaError,
    MediaError,
    MediaTooLargeError,
    ReleaseChangedError,
    StorageError,
    UnsupportedMediaError,
)
from galleria.serving.rate_filter import RateFilter
from galleria.serving.schemas.openapi import schema_of
from galleria.serving.schemas.responses import FieldProblem, Problem

logger = logging.getLogger("ray.serve")  # Serve's own logger, so that its settings and files apply
frequent_logger = logging.getLogger("ray.serve.frequent")
"""For what happens with every request while the service is overloaded or its storage is away."""
frequent_logger.addFilter(RateFilter())

MEDIA_TYPE = "application/problem+json"

ERROR_FIELDS: Mapping[str, str] = {"/v2/": "error", "/v1/embeddings": "message", "/v1/models/": "message"}
"""Path prefixes of other protocols, and the field in which their clients expect the message."""


ERROR_STATUSES: Sequence[tuple[type[Exception], int, str]] = (
    (UnsupportedMediaError, 415, "unsupported-media"),
    (MediaTooLargeError, 413, "too-large"),
    (MediaError, 422, "broken-media"),
    (DataError, 422, "unusable-data"),
    (CatalogFullError, 507, "catalogue-full"),
    (StorageError, 503, "storage-unavailable"),
    (ReleaseChangedError, 503, "release-changed"),
    (GalleriaError, 503, "unavailable"),
    (ClientDisconnect, 400, "incomplete-request"),
    (OSError, 503, "storage-unavailable"),
)
"""HTTP status and kind of each error class; the first that matches counts."""

DETAILS: Mapping[str, str] = {
    "catalogue-full": "the disk of the catalogue is full: free some space; reads still work",
    "storage-unavailable": "a file or a store cannot be reached: try again; the service's log says which",
}
"""What is said of kinds of errors whose own text names files of the server."""


PATH = re.compile(r"(?:\b[a-z][a-z0-9+.-]*:/)?(?<![\w.…])/(?:[^\s/'\",:;()]+/)*([^\s/'\",:;()]+)/?")
"""An absolute path, or a URI."""

MAX_ERRORS = 1_000
"""Errors of one body that are described, which takes 1 kB each; of more, only their number is."""


class ProblemError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        kind: last part of the problem's `type`: a stable name for programs.
        detail: what was wrong and how to fix it.
        errors: the fields that are wrong.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.errors, self.headers = list(errors), dict(headers or {})


def unavailable(detail: str) -> ProblemError:
    """Return a 503: the service cannot respond now, but may soon."""
    return ProblemError(503, "unavailable", detail, headers={"Retry-After": "1"})


def too_many_requests(detail: str) -> ProblemError:
    """Return a 429: the service is overloaded; `detail` says with what."""
    return ProblemError(429, "too-many-requests", f"{detail}: try again in a second", headers={"Retry-After": "1"})


def invalid_field(field: str, message: str) -> ProblemError:
    """Return a 422: a field is well formed but not valid."""
    return ProblemError(422, "invalid-request", f"{field}: {message}", [FieldProblem(field=field, message=message)])


def to_problem_error(error: Exception) -> ProblemError:
    """Return the response to an error; an unexpected error reveals nothing."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError | ValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        allowed = (error.headers or {}).get("Allow", "other methods")
        detail = {404: "there is nothing at this path: see /docs", 405: f"this path takes {allowed}: see /docs"}
        return ProblemError(
            error.status_code,
            phrase.lower().replace(" ", "-"),
            detail.get(error.status_code, str(error.detail)),
            headers=error.headers,
        )
    for error_class, status, kind in ERROR_STATUSES:
        if isinstance(error, error_class):
            text = DETAILS.get(kind) or (without_paths(str(error)) if status == 503 else str(error))
            return ProblemError(status, kind, text, headers={"Retry-After": "1"} if status == 503 else None)
    return ProblemError(500, "internal-error", "the service failed on this request; its log names the request id")


def without_paths(text: str) -> str:
    """Return a message with only the last segment of each absolute path and URI of the server in it."""
    return PATH.sub(r"…/\1", text)


def to_problem(error: Exception, request_id: str) -> Problem:
    """Return an error as a problem. Errors of the service itself are logged with the request id.

    Those that end by themselves or by an operator, such as overload, are warnings, at most one of a kind a second.
    """
    response = to_problem_error(error)
    if response.status >= 500:
        unexpected = not isinstance(error, ProblemError | GalleriaError)
        log = frequent_logger if response.status in (503, 507) else logger
        log.log(
            logging.ERROR if unexpected else logging.WARNING,
            "request %s: %s",
            request_id,
            error,
            exc_info=error if unexpected else None,
            extra={"kind": f"{response.kind} {type(error).__name__}"},
        )
    return Problem(
        type=f"urn:galleria:problem:{response.kind}",
        title=HTTPStatus(response.status).phrase,
        status=response.status,
        detail=response.detail,
        request_id=request_id,
        errors=response.errors,
    )


def problem_response(error: Exception, request_id: str, path: str = "") -> Response:
    """Return the HTTP response to an error."""
    problem = to_problem(error, request_id)
    body = problem.model_dump() | {
        name: problem.detail for prefix, name in ERROR_FIELDS.items() if path.startswith(prefix)
    }
    return Response(json.dumps(body, ensure_ascii=False), problem.status, to_problem_error(error).headers, MEDIA_TYPE)


def add_exception_handlers(app: FastAPI) -> None:
    """Make `app` respond to every error of a route with a problem."""

    async def respond(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            error = HTTPException(405, headers={"Allow": ", ".join(_allowed_methods(request))})
        return problem_response(error, request.state.request_id, request.scope["path"])

    for kind in (ProblemError, RequestValidationError, ValidationError, GalleriaError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, respond)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of a request's path, which several routes may have."""
    methods = [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in request.app.routes)
    ]
    return ["HEAD", *methods] if "GET" in methods else methods


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` entries of a route's errors."""
    schema = schema_of(Problem, "serialization")
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _invalid(invalid: RequestValidationError | ValidationError) -> ProblemError:
    if isinstance(invalid, ValidationError) and invalid.error_count() > MAX_ERRORS:
        return ProblemError(
            422,
            "invalid-request",
            f"{invalid.error_count():,} fields are wrong: send only the fields that /docs describes",
        )
    errors = invalid.errors()
    for error in errors:
        if error["type"] == "json_invalid":
            return ProblemError(400, "malformed-request", f"the body is not JSON: {error['msg']}")
    fields = [
        FieldProblem(
            field=".".join(str(part) for part in error["loc"]) or "body",
            message=error["msg"].removeprefix("Value error, "),
        )
        for error in errors[:10]  # every element of a long vector may be wrong
    ]
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
    return ProblemError(422, "invalid-request", detail, fields)
