"""What surrounds every request: an id, the path as it was sent, and an answer whatever happens."""

import re
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.schemas.problems import problem_response

SANE = re.compile(r"[\w.:@/+-]{1,128}", re.ASCII)
"""Request ids that are taken over from the caller."""


class RequestContextMiddleware:
    """ASGI middleware; goes outermost.

    Puts `request_id` into the request's state and (unless a proxy does so) into the answer's headers, leaves
    the path percent-encoded so that an id with a slash stays one segment, and answers unexpected errors.
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
        request_id = sent if SANE.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        scope["path"] = raw.decode("utf-8", "replace").partition("?")[0]
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                if not self.proxied:
                    headers["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            response = problem_response(error, request_id)
            if started:  # too late for another status: break off, so that the caller sees the answer is cut short
                raise
            await response(scope, receive, answer)
