"""Middleware around every request: its id, its path as it was sent, and a response to unexpected errors."""

import re
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.schemas.problems import problem_response

REQUEST_ID = re.compile(r"[\w.:@/+-]{1,128}", re.ASCII)
"""Request ids of clients that are accepted."""


class RequestContextMiddleware:
    """ASGI middleware; must be the outermost.

    Puts `request_id` into the request's state and (unless a proxy does so) into the response's headers, keeps the path
    percent-encoded so that an id with a slash stays one segment, and responds to unexpected errors.
    """

    def __init__(self, app: ASGIApp, proxied: bool) -> None:
        self.app = app
        self.proxied = proxied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        scope["path"] = raw.decode("utf-8", "replace").partition("?")[0]
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                if not self.proxied:
                    headers["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            response = problem_response(error, request_id)
            if started:  # too late for another status: abort, so that the client sees an incomplete response
                raise
            await response(scope, receive, send_with_headers)
