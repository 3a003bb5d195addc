"""Reads a search from a request's body, JSON or a form, never holding more than the limits allow."""

import asyncio
from collections.abc import AsyncGenerator

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from galleria.media.limits import Limits
from galleria.serving.problems import RefusedError, wrong_field
from galleria.serving.schemas import SearchQuery

SPARE = 64 * 1024
"""Bytes of a body beside its picture."""


async def read_query(request: Request, limits: Limits, seconds: float) -> SearchQuery:
    """The search that a request asks for.

    Raises:
        RefusedError: 400 malformed, 408 slower than `seconds`, 413 over a limit, 415 neither JSON nor a form, 422
            not usable.
        ValidationError: a field is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(seconds):
            if kind == "application/json":
                query = await _read_json(request, limits)
            elif kind == "multipart/form-data":
                query = await _read_form(request, limits)
            else:
                raise RefusedError(
                    415,
                    "unsupported-media",
                    f"the body is {kind or 'untyped'}: send application/json or multipart/form-data",
                )
    except TimeoutError as error:
        raise RefusedError(408, "slow-request", f"the body took longer than {seconds:g} s: send it again") from error
    if "k" not in query.model_fields_set:
        query.k = min(query.k, limits.results)
    if query.k > limits.results:
        raise wrong_field("k", f"is {query.k}, over the limit of {limits.results:,}")
    if query.text is not None and len(query.text) > limits.text_characters:
        raise wrong_field("text", f"has {len(query.text):,} characters, over the limit of {limits.text_characters:,}")
    return query


async def _read_json(request: Request, limits: Limits) -> SearchQuery:
    most = (limits.image_bytes + 2) // 3 * 4 + SPARE  # a picture in base64 takes four thirds of its size
    body = b"".join([chunk async for chunk in _capped(request, most)])
    if len(body) > SPARE:  # takes milliseconds: other requests go on meanwhile
        return await asyncio.to_thread(SearchQuery.model_validate_json, body)
    return SearchQuery.model_validate_json(body)


async def _read_form(request: Request, limits: Limits) -> SearchQuery:
    most = limits.image_bytes + SPARE
    parser = MultiPartParser(request.headers, _capped(request, most), max_files=1, max_fields=8, max_part_size=SPARE)
    parser.spool_max_size = most  # in memory: the cap above bounds it
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError, LookupError) as error:
        raise RefusedError(400, "malformed-request", f"the form cannot be read: {error}") from error
    try:
        return SearchQuery.model_validate(await _values(form))
    finally:
        await form.close()


async def _values(form: FormData) -> dict[str, bytes | str]:
    values: dict[str, bytes | str] = {}
    for name, value in form.multi_items():
        if name in values:
            raise wrong_field(name, "is given twice")
        if isinstance(value, UploadFile):
            content = await value.read()
            if content or value.filename:  # a browser sends an unnamed empty file where none was chosen
                values[name] = content
        else:
            values[name] = value
    return values


async def _capped(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    too_large = RefusedError(413, "too-large", f"the body is over the limit of {most:,} bytes: send a smaller picture")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most:
            raise too_large
        yield chunk
