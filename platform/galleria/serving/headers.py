"""Headers of requests, made unambiguous before anything reads them: Ray Serve reads some ahead of the application.

A header that is not UTF-8 counts as not sent, whichever it is.
"""

import re
import uuid

from starlette.types import ASGIApp, Receive, Scope, Send

REQUEST_ID_HEADER = b"x-request-id"

REQUEST_ID = re.compile(r"[\w.:@/+-]{1,128}", re.ASCII)
"""Request ids of clients that are accepted."""


class HeadersMiddleware:
    """ASGI middleware that applies `clean_headers` to every request; for Ray Serve's own HTTP servers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            clean_headers(scope)
        await self.app(scope, receive, send)


def clean_headers(scope: Scope) -> str:
    """Leave out the headers that are not UTF-8, put one request id among the others, and return it.

    The id is the client's if it sent exactly one that is valid, and a new one otherwise.
    """
    headers = [(name, value) for name, value in scope["headers"] if _is_utf8(name) and _is_utf8(value)]
    sent = [value.decode() for name, value in headers if name == REQUEST_ID_HEADER]
    request_id = sent[0] if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]) else uuid.uuid4().hex
    others = [header for header in headers if header[0] != REQUEST_ID_HEADER]
    scope["headers"] = [*others, (REQUEST_ID_HEADER, request_id.encode())]
    return request_id


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
