"""Every error as application/problem+json, with the status that its class stands for."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from galleria.errors import (
    CatalogFullError,
    DataError,
    GalleriaError,
    MediaError,
    MediaTooLargeError,
    UnsupportedMediaError,
)
from galleria.serving.schemas.openapi import schema_of
from galleria.serving.schemas.responses import FieldProblem, Problem

logger = logging.getLogger("ray.serve")  # Serve's own logger, so that its settings and files apply

MEDIA_TYPE = "application/problem+json"

ERROR_FIELDS: Mapping[str, str] = {"/v2/": "error", "/v1/embeddings": "message"}
"""Beginnings of addresses, and where their protocols' clients look for what is wrong: it is said there once more."""


ERROR_STATUSES: Sequence[tuple[type[Exception], int, str]] = (
    (UnsupportedMediaError, 415, "unsupported-media"),
    (MediaTooLargeError, 413, "too-large"),
    (MediaError, 422, "broken-media"),
    (DataError, 422, "unusable-data"),
    (CatalogFullError, 507, "catalogue-full"),
    (GalleriaError, 503, "unavailable"),
    (ClientDisconnect, 400, "incomplete-request"),
)
"""Status and kind of an error: the first class that it is of."""


class ProblemError(Exception):
    """A request that is answered with a problem.

    Args:
        status: HTTP status.
        kind: end of the problem's `type`, a stable name that programs can tell problems apart by.
        detail: what was wrong and what to do about it.
        errors: the fields that are wrong.
        headers: added to the answer.
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
    """The service cannot answer now, but may soon."""
    return ProblemError(503, "unavailable", detail, headers={"Retry-After": "1"})


def too_many_requests(detail: str) -> ProblemError:
    """The service has too much to do; `detail` says of what."""
    return ProblemError(429, "too-many-requests", f"{detail}: try again in a second", headers={"Retry-After": "1"})


def invalid_field(field: str, message: str) -> ProblemError:
    """A value that is well formed but cannot be used."""
    return ProblemError(422, "invalid-request", f"{field}: {message}", [FieldProblem(field=field, message=message)])


def to_problem_error(error: Exception) -> ProblemError:
    """What to answer to an error; an unexpected one tells nothing of itself."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError | ValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        allowed = (error.headers or {}).get("Allow", "other methods")
        detail = {404: "there is nothing at this address: see /docs", 405: f"this address takes {allowed}: see /docs"}
        return ProblemError(
            error.status_code,
            phrase.lower().replace(" ", "-"),
            detail.get(error.status_code, str(error.detail)),
            headers=error.headers,
        )
    for known, status, kind in ERROR_STATUSES:
        if isinstance(error, known):
            return ProblemError(status, kind, str(error), headers={"Retry-After": "1"} if status == 503 else None)
    return ProblemError(500, "internal-error", "the service failed on this request; its log names the request id")


def to_problem(error: Exception, request_id: str) -> Problem:
    """An error as a problem. Errors of the service itself are logged with the request id."""
    answer = to_problem_error(error)
    if answer.status >= 500:
        logger.error("request %s: %s", request_id, error, exc_info=error if answer.status == 500 else None)
    return Problem(
        type=f"urn:galleria:problem:{answer.kind}",
        title=HTTPStatus(answer.status).phrase,
        status=answer.status,
        detail=answer.detail,
        request_id=request_id,
        errors=answer.errors,
    )


def problem_response(error: Exception, request_id: str, path: str = "") -> Response:
    """The answer to an error."""
    problem = to_problem(error, request_id)
    told = problem.model_dump() | {
        name: problem.detail for begin, name in ERROR_FIELDS.items() if path.startswith(begin)
    }
    return Response(json.dumps(told, ensure_ascii=False), problem.status, to_problem_error(error).headers, MEDIA_TYPE)


def add_exception_handlers(app: FastAPI) -> None:
    """Make `app` answer every error that a route raises as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_response(error, request.state.request_id, request.scope["path"])

    for kind in (ProblemError, RequestValidationError, ValidationError, GalleriaError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, answer)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the reference says of a route's errors."""
    schema = schema_of(Problem)
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _invalid(errors: Sequence[Any]) -> ProblemError:
    for error in errors:
        if error["type"] == "json_invalid":
            return ProblemError(400, "malformed-request", f"the body is not JSON: {error['msg']}")
    fields = [
        FieldProblem(
            field=".".join(str(part) for part in error["loc"]) or "body",
            message=error["msg"].removeprefix("Value error, "),
        )
        for error in errors[:10]  # a long vector may be wrong in every place
    ]
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
    return ProblemError(422, "invalid-request", detail, fields)
