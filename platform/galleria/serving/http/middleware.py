"""Middleware around every request: its id, its path as it was sent, an unread body, HEAD, and unexpected errors."""

import asyncio
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.headers import clean_headers
from galleria.serving.schemas.problems import problem_response

MAX_REST_BYTES = 64 * 1024
REST_TIMEOUT_S = 0.05
"""What is discarded of a body that a route did not read, and how long it may take to arrive: usually it is all."""

MAX_LINGERING = 16
MAX_LINGER_BYTES = 16_000_000
LINGER_TIMEOUT_S = 1.0
"""Responses after which more is discarded before the connection closes, how much, and how long: a client that is still
sending then gets to read its response, in place of a reset connection."""


class RequestContextMiddleware:
    """ASGI middleware; must be the outermost but for CORS, which has to see every response.

    Puts `request_id` into the request's state and (unless a proxy does so) into the response's headers, keeps the path
    percent-encoded so that an id with a slash stays one segment, and responds to unexpected errors. A connection whose
    client goes on sending a body that is not read is closed.
    """

    def __init__(self, app: ASGIApp, proxied: bool) -> None:
        self.app = app
        self.proxied = proxied
        self._lingering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = clean_headers(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        scope["path"] = raw.decode("utf-8", "replace").partition("?")[0]
        started = False
        body = _Body(scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                if not self.proxied:
                    headers["x-request-id"] = request_id
                await body.discard(MAX_REST_BYTES, REST_TIMEOUT_S)
                if not body.complete:
                    headers["connection"] = "close"
            elif not body.complete and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._linger(body)
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app(scope, body.receive, send_with_headers)
        except Exception as error:
            response = problem_response(error, request_id)
            if started:  # too late for another status: abort, so that the client sees an incomplete response
                raise
            await response(scope, body.receive, send_with_headers)

    async def _linger(self, body: "_Body") -> None:
        if self._lingering < MAX_LINGERING:
            self._lingering += 1
            try:
                await body.discard(MAX_LINGER_BYTES, LINGER_TIMEOUT_S)
            finally:
                self._lingering -= 1


class HeadMiddleware:
    """ASGI middleware that answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body"})

        headers = [header for header in scope["headers"] if header[0] != b"range"]  # defined for GET alone
        as_get = {**scope, "method": "GET", "headers": headers}  # the server's own scope still says HEAD
        await self.app(as_get, receive, send_without_body)
        if "route" in as_get:
            scope["route"] = as_get["route"]


class _Body:
    """The body of a request, and whether all of it has been received.

    Args:
        scope: of the request.
        receive: returns its next message.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self.complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._sends = "expect" not in headers  # else its client waits for the first `receive`
        self._receive = receive

    async def receive(self) -> Message:
        """Return the next message."""
        self._sends = True
        message = await self._receive()
        self.complete = self.complete or not message.get("more_body", False)
        return message

    async def discard(self, max_bytes: int, timeout_s: float) -> None:
        """Receive the rest, unless it is long or slow."""
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                while self._sends and not self.complete and size <= max_bytes:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
