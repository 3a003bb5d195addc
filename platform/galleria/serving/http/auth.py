"""Authentication: by API key, or without keys for clients on this machine only."""

import ipaddress
import math
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.http.keys import VARIABLES, Key, Keys
from galleria.serving.schemas.problems import ProblemError, problem_response

PUBLIC_PATHS = ("/livez", "/readyz", "/v2/health/", "/docs", "/openapi.json", "/page/")
"""Prefixes of paths that need no key: they reveal nothing of the catalogue. Neither does `/`, the page."""

WRITE_METHODS = ("PUT", "DELETE")
COOKIE = "galleria_key"
"""Holds the page's key: the browser sends no header with requests for pictures."""


class AuthMiddleware:
    """ASGI middleware; goes inside `RequestContextMiddleware`. Puts the key's name into the request's state as `key`.

    Responses that need a key are for its owner only, and a cache asks for each whether it still holds.

    Args:
        app: the application.
        keys: of the service.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] == "/" or scope["path"].startswith(PUBLIC_PATHS):
            await self.app(scope, receive, send)
            return

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("cache-control", "private, no-cache")
            await send(message)

        try:
            scope["state"]["key"] = self._authenticate(scope)
        except ProblemError as error:
            await problem_response(error, scope["state"]["request_id"], scope["path"])(scope, receive, send_private)
            return
        await self.app(scope, receive, send_private)

    def _authenticate(self, scope: Scope) -> str:
        if not self.keys:
            _check_loopback(scope)
            return ""
        key = self._key(Headers(scope=scope))
        if scope["method"] in WRITE_METHODS and key.role != "write":
            raise ProblemError(403, "read-only-key", f"the key {key.name!r} may only read: send one that may write")
        wait_s = self.keys.wait_s(key)
        if wait_s:
            raise ProblemError(
                429,
                "too-many-requests",
                f"the key {key.name!r} may send {key.per_second:g} requests a second: wait",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        return key.name

    def _key(self, headers: Headers) -> Key:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = _cookie(headers.get("cookie", ""))
        if not token:
            raise _unauthorized("this service needs a key: send 'Authorization: Bearer KEY'")
        key = self.keys.find(token.strip())
        if key is None:
            raise _unauthorized("the key is not one of this service's: check it, or ask its operator for another")
        return key


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's loopback interface."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_loopback(scope: Scope) -> None:
    """Check that a connection came to the loopback interface, and for a loopback host name.

    Another site's name may resolve to this machine (DNS rebinding): the browser sends that name as the host.

    Raises:
        ProblemError: 403, it did not.
    """
    if not is_loopback((scope.get("server") or ("",))[0]):
        raise ProblemError(
            403,
            "no-keys",
            "this service has no keys, so it answers on loopback only: give it `keys`, or set "
            f"{VARIABLES['read']} and {VARIABLES['write']}, and start it again",
        )
    header = Headers(scope=scope).get("host", "")
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        host = ""
    if not is_loopback(host):
        sent = f"the Host header is {header[:200]!r}" if header else "the request has no Host header"
        raise ProblemError(
            403,
            "foreign-host",
            f"{sent}, and a service without keys answers requests to 'localhost' or a loopback address only: send it "
            f"as the host, or start the service with keys ({VARIABLES['read']}, {VARIABLES['write']})",
        )


def _cookie(text: str) -> str:
    try:
        cookie = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return unquote(cookie.value) if cookie else ""


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
