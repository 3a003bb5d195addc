"""Reads a request's body, JSON or a form, within limits on its size and its duration."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from galleria.media.limits import Limits
from galleria.serving.schemas.problems import ProblemError, invalid_field
from galleria.serving.schemas.requests import SearchRequest

B = TypeVar("B", bound=BaseModel)

OVERHEAD_BYTES = 64 * 1024
"""Bytes of a body in addition to its file."""


async def read_body(request: Request, kind: type[B], max_bytes: int, timeout_s: float) -> B:
    """Read and validate a request's body.

    Args:
        request: the request.
        kind: the body's model.
        max_bytes: size that a file in it may have.
        timeout_s: how long it may take to arrive, in seconds.

    Raises:
        ProblemError: 400 malformed, 408 slower than `timeout_s`, 413 over `max_bytes`, 415 neither JSON nor a form.
        ValidationError: a field is wrong.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(timeout_s):
            if content_type == "application/json":
                return await _read_json(request, kind, max_bytes)
            if content_type == "multipart/form-data":
                return await _read_form(request, kind, max_bytes)
    except TimeoutError as error:
        raise ProblemError(408, "slow-request", f"the body took longer than {timeout_s:g} s: send it again") from error
    raise ProblemError(
        415,
        "unsupported-media",
        f"the body is {content_type or 'untyped'}: send application/json or multipart/form-data",
    )


async def read_search(request: Request, limits: Limits, timeout_s: float) -> SearchRequest:
    """Read and check the body of a search.

    Raises:
        ProblemError: as `read_body`, and 422 for words or a `k` over a limit.
        ValidationError: a field is wrong.
    """
    query = await read_body(request, SearchRequest, limits.image_bytes, timeout_s)
    check_search(query, limits)
    return query


def check_search(query: SearchRequest, limits: Limits) -> None:
    """Check a search against the service's limits.

    Raises:
        ProblemError: 422 for words or a `k` over a limit.
    """
    if "k" not in query.model_fields_set:
        query.k = min(query.k, limits.results)
    if query.k > limits.results:
        raise invalid_field("k", f"is {query.k}, over the limit of {limits.results:,}")
    if query.k + query.offset > limits.results:
        raise invalid_field("offset", f"is {query.offset}, with k over the limit of {limits.results:,}")
    for part in (query, *(query.mix or ())):
        if part.text is not None and len(part.text) > limits.text_characters:
            raise invalid_field(
                "text", f"has {len(part.text):,} characters, over the limit of {limits.text_characters:,}"
            )


async def _read_json(request: Request, kind: type[B], max_bytes: int) -> B:
    max_bytes = (max_bytes + 2) // 3 * 4 + OVERHEAD_BYTES  # base64 takes four thirds of a file's size
    body = b"".join([chunk async for chunk in capped(request, max_bytes)])
    if len(body) > OVERHEAD_BYTES:  # takes milliseconds: not in the event loop
        return await asyncio.to_thread(kind.model_validate_json, body)
    return kind.model_validate_json(body)


async def _read_form(request: Request, kind: type[B], max_bytes: int) -> B:
    max_bytes += OVERHEAD_BYTES
    parser = MultiPartParser(
        request.headers, capped(request, max_bytes), max_files=1, max_fields=8, max_part_size=OVERHEAD_BYTES
    )
    parser.spool_max_size = max_bytes  # in memory: `capped` bounds it
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError, LookupError) as error:
        raise ProblemError(400, "malformed-request", f"the form cannot be read: {error}") from error
    try:
        return kind.model_validate(await _values(form))
    finally:
        await form.close()


async def _values(form: FormData) -> dict[str, bytes | str]:
    values: dict[str, bytes | str] = {}
    for name, value in form.multi_items():
        if name in values:
            raise invalid_field(name, "is given twice")
        if isinstance(value, UploadFile):
            content = await value.read()
            if content or value.filename:  # a browser sends an unnamed empty file where none was chosen
                values[name] = content
        else:
            values[name] = value
    return values


async def capped(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a request's body as it arrives.

    Raises:
        ProblemError: 413, it is longer than `max_bytes`.
    """
    too_large = ProblemError(
        413, "too-large", f"the body is over the limit of {max_bytes:,} bytes: send a smaller file"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise too_large
        yield chunk
