"""Reads a request's body, JSON or a form, within limits on its size, its values, its speed and the memory for all."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from galleria.media.limits import Limits
from galleria.serving.config import ServiceConfig
from galleria.serving.http.arrival import VALUE_BYTES, ArrivalLimit, HeldBytes, MemoryBudget
from galleria.serving.http.json_scan import JsonLimits, JsonScanner, build, parse
from galleria.serving.schemas.problems import ProblemError, invalid_field
from galleria.serving.schemas.requests import SearchRequest

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

OVERHEAD_BYTES = 64 * 1024
"""Bytes of a body in addition to its file."""

PIECE_BYTES = 64 * 1024
"""Bytes that are scanned or parsed before other requests have their turn."""


class BodyReader:
    """Reads the bodies of all requests of one process.

    Args:
        config: limits, and how long a body may take.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._limits = config.limits
        self._timeout_s = config.body_timeout_s
        self.memory = MemoryBudget(config.max_body_memory_bytes)
        self._arrivals = ArrivalLimit()
        self._threads = ThreadPoolExecutor(config.threads, "body")

    @asynccontextmanager
    async def read(
        self,
        request: Request,
        kind: type[B],
        max_bytes: int,
        timeout_s: float | None = None,
        list_field: str | None = None,
    ) -> AsyncIterator[B]:
        """Read and validate a request's body. Its memory counts as in use until the block ends.

        Args:
            request: the request.
            kind: the body's model.
            max_bytes: size that a file in it may have.
            timeout_s: how long it may take to arrive, in seconds; by default `body_timeout_s`.
            list_field: field with one query or item an element, each within the limits on one; such a body is JSON.

        Raises:
            ProblemError: 400 malformed, 408 too slow, 413 too large, 415 neither JSON nor a form, 429 too many bodies.
            ValidationError: a field is wrong.
        """
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        with self.hold(request) as held:
            if content_type == "application/json":
                query = await self._read_json(request, kind, held, max_bytes, timeout_s, list_field)
            elif content_type == "multipart/form-data" and not list_field:
                query = await self._read_form(request, kind, held, max_bytes + OVERHEAD_BYTES, timeout_s)
            else:
                raise ProblemError(
                    415,
                    "unsupported-media",
                    f"the body is {content_type or 'untyped'}: send application/json"
                    + ("" if list_field else " or multipart/form-data"),
                )
            yield query

    @asynccontextmanager
    async def read_search(self, request: Request) -> AsyncIterator[SearchRequest]:
        """Read and check the body of a search.

        Raises:
            ProblemError: as `read`, and 422 for words or a `k` over a limit.
            ValidationError: a field is wrong.
        """
        async with self.read(request, SearchRequest, self._limits.image_bytes) as query:
            check_search(query, self._limits)
            yield query

    def hold(self, request: Request) -> AbstractContextManager[HeldBytes]:
        """Return a context in which the bytes of a request's body count as in use, for `receive`."""
        return self.memory.hold(_client(request))

    async def receive(
        self,
        request: Request,
        held: HeldBytes,
        max_bytes: int,
        limits: JsonLimits,
        json_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[bytearray, JsonScanner]:
        """Receive a body that is JSON, or begins with it.

        Args:
            request: the request.
            held: where its bytes are counted.
            max_bytes: size that it may have.
            limits: on its JSON.
            json_bytes: length of the JSON at its beginning; by default all of it.
            timeout_s: how long it may take to arrive, in seconds; by default `body_timeout_s`.

        Returns:
            The body, and a scanner that was fed with its JSON.

        Raises:
            ProblemError: 400 nested too deeply, 408 too slow, 413 too large, 429 too many bodies.
        """
        scanner = JsonScanner(limits)

        async def join(pieces: AsyncGenerator[bytes, None]) -> bytearray:
            body = bytearray()
            async for piece in pieces:
                scanner.feed(piece if json_bytes is None else piece[: max(0, json_bytes - len(body))])
                body += piece
            return body

        body = await self._arrive(request, held, max_bytes, timeout_s, join)
        held.take(VALUE_BYTES * scanner.values)
        return body, scanner

    async def in_thread(self, function: Callable[..., T], *values: Any) -> T:
        """Run a function that takes milliseconds in one of the few threads for bodies."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *values)

    async def _read_json(
        self,
        request: Request,
        kind: type[B],
        held: HeldBytes,
        max_bytes: int,
        timeout_s: float | None,
        list_field: str | None,
    ) -> B:
        values, item_values = self._limits.batch_json_values, self._limits.json_values
        limits = JsonLimits(values if list_field else item_values, item_values)
        body, scanner = await self.receive(
            request, held, base64_bytes(max_bytes) + OVERHEAD_BYTES, limits, timeout_s=timeout_s
        )
        if list_field:
            return kind.model_validate(await self.in_thread(build, body, scanner, list_field, self._limits.batch_items))
        if len(body) > OVERHEAD_BYTES:  # takes milliseconds: not in the event loop
            return await self.in_thread(validate, kind, body, scanner)
        return kind.model_validate_json(body)

    async def _read_form(
        self, request: Request, kind: type[B], held: HeldBytes, max_bytes: int, timeout_s: float | None
    ) -> B:
        async def parse(pieces: AsyncGenerator[bytes, None]) -> FormData:
            async def until_end() -> AsyncGenerator[bytes, None]:
                async for piece in pieces:
                    yield piece
                if not parser.ended:
                    raise MultiPartException("it ends before its last boundary")

            parser = _FormParser(request.headers, until_end(), max_files=1, max_fields=8, max_part_size=OVERHEAD_BYTES)
            parser.spool_max_size = max_bytes  # in memory, which `held` counts
            return await parser.parse()

        try:
            form = await self._arrive(request, held, max_bytes, timeout_s, parse)
        except (MultiPartException, FormParserError, UnicodeError, LookupError) as error:
            raise ProblemError(400, "malformed-request", f"the form cannot be read: {error}") from error
        try:
            return kind.model_validate(await _values(form))
        finally:
            await form.close()

    async def _arrive(
        self,
        request: Request,
        held: HeldBytes,
        max_bytes: int,
        timeout_s: float | None,
        consume: Callable[[AsyncGenerator[bytes, None]], Awaitable[T]],
    ) -> T:
        """Have a function consume the pieces of a body while it arrives."""
        encoding = request.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise ProblemError(
                415,
                "unsupported-encoding",
                f"the body is compressed ({encoding[:100]}): send it as it is, without Content-Encoding",
                headers={"Accept-Encoding": "identity"},
            )
        try:
            async with asyncio.timeout(None) as deadline:
                with self._arrivals.admit(held.client, deadline, timeout_s or self._timeout_s) as arrival:

                    def count(size: int) -> None:
                        arrival.receive(size)
                        held.take(size)

                    return await consume(_capped(request, max_bytes, count))
        except TimeoutError as error:
            raise arrival.problem() from error


class _FormParser(MultiPartParser):
    """A parser that knows whether it has seen the end of the form."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


def validate(kind: type[B], body: bytearray, scanner: JsonScanner, end: int | None = None) -> B:
    """Return the model of a body, whose JSON ends at `end`.

    Raises:
        ProblemError: 400, it is not JSON.
        ValidationError: a field is wrong.
    """
    if not scanner.long_texts:
        return kind.model_validate_json(body if end is None else body[:end])
    try:
        value = parse(body, scanner, end=end)
    except ValueError as error:
        raise ProblemError(400, "malformed-request", f"the body is not JSON: {error}") from error
    return kind.model_validate(value)


def check_search(query: SearchRequest, limits: Limits) -> None:
    """Check a search against the service's limits.

    Raises:
        ProblemError: 422 for words or a `k` over a limit.
    """
    if "k" not in query.model_fields_set:
        query.k = min(query.k, limits.results)
    if query.k > limits.results:
        raise invalid_field("k", f"is {query.k}, over the limit of {limits.results:,}")
    if query.after is not None and query.end > limits.results:
        raise invalid_field(
            "after", f"follows {query.after.hit.depth} hits, with k over the limit of {limits.results:,}: use a filter"
        )
    if query.end > limits.results:
        raise invalid_field("offset", f"is {query.offset}, with k over the limit of {limits.results:,}")
    for part in (query, *(query.mix or ())):
        if part.text is not None and len(part.text) > limits.text_characters:
            raise invalid_field(
                "text", f"has {len(part.text):,} characters, over the limit of {limits.text_characters:,}"
            )


def base64_bytes(size: int) -> int:
    """Return the length of so many bytes in base64."""
    return (size + 2) // 3 * 4


def _client(request: Request) -> str:
    """Return the name of the client's key, or its address where the service has no keys."""
    key: str = request.scope.get("state", {}).get("key", "")
    return key or (request.client.host if request.client else "")


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


async def _capped(request: Request, max_bytes: int, count: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield a request's body as it arrives, in small pieces; `count` is called with the size of what arrived.

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
        count(len(chunk))
        for start in range(0, len(chunk), PIECE_BYTES):
            if start:
                await asyncio.sleep(0)
            yield chunk[start : start + PIECE_BYTES]
