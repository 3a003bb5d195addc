"""Reads what a request asks for from its body, JSON or a form, never holding more than the limits allow."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from galleria.media.limits import Limits
from galleria.serving.schemas.problems import ProblemError, invalid_field
from galleria.serving.schemas.requests import RequestBody, SearchRequest

Q = TypeVar("Q", bound=RequestBody)

FORM_OVERHEAD_BYTES = 64 * 1024
"""Bytes of a body beside its file."""


async def read_body(request: Request, kind: type[Q], most: int, seconds: float) -> Q:
    """The query of one `kind` that a request's body holds.

    Args:
        request: the request.
        kind: the query's class.
        most: bytes that a file in it may have.
        seconds: how long it may take to arrive.

    Raises:
        ProblemError: 400 malformed, 408 slower than `seconds`, 413 over `most`, 415 neither JSON nor a form.
        ValidationError: a field is wrong.
    """
    told = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(seconds):
            if told == "application/json":
                return await _read_json(request, kind, most)
            if told == "multipart/form-data":
                return await _read_form(request, kind, most)
    except TimeoutError as error:
        raise ProblemError(408, "slow-request", f"the body took longer than {seconds:g} s: send it again") from error
    raise ProblemError(
        415,
        "unsupported-media",
        f"the body is {told or 'untyped'}: send application/json or multipart/form-data",
    )


async def read_search(request: Request, limits: Limits, seconds: float) -> SearchRequest:
    """The search that a request asks for.

    Raises:
        ProblemError: as `read_body`, and 422 for words or a `k` over a limit.
        ValidationError: a field is wrong.
    """
    query = await read_body(request, SearchRequest, limits.image_bytes, seconds)
    check_search(query, limits)
    return query


def check_search(query: SearchRequest, limits: Limits) -> None:
    """Hold a search to the service's limits.

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


async def _read_json(request: Request, kind: type[Q], most: int) -> Q:
    most = (most + 2) // 3 * 4 + FORM_OVERHEAD_BYTES  # a file in base64 takes four thirds of its size
    body = b"".join([chunk async for chunk in capped(request, most)])
    if len(body) > FORM_OVERHEAD_BYTES:  # takes milliseconds: other requests go on meanwhile
        return await asyncio.to_thread(kind.model_validate_json, body)
    return kind.model_validate_json(body)


async def _read_form(request: Request, kind: type[Q], most: int) -> Q:
    most += FORM_OVERHEAD_BYTES
    parser = MultiPartParser(
        request.headers, capped(request, most), max_files=1, max_fields=8, max_part_size=FORM_OVERHEAD_BYTES
    )
    parser.spool_max_size = most  # in memory: the cap above bounds it
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


async def capped(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """A request's body as it comes.

    Raises:
        ProblemError: 413, it is longer than `most` bytes.
    """
    too_large = ProblemError(413, "too-large", f"the body is over the limit of {most:,} bytes: send a smaller file")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most:
            raise too_large
        yield chunk
