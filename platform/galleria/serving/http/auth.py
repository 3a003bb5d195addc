"""Lets requests in: by key where the service has keys, and from this machine alone where it has none."""

import ipaddress
import math
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from galleria.serving.http.keys import VARIABLES, Key, Keys
from galleria.serving.schemas.problems import ProblemError, problem_response

OPEN = ("/livez", "/readyz", "/v2/health/", "/docs", "/openapi.json", "/page/")
"""Beginnings of addresses that need no key: they tell nothing of the catalogue. So does `/`, the page."""

WRITING = ("PUT", "DELETE")
COOKIE = "galleria_key"
"""The page's key: pictures in a page cannot carry a header."""


class AuthMiddleware:
    """ASGI middleware; goes inside `RequestContextMiddleware`. Puts the key's name into the request's state as `key`.

    Args:
        app: what it guards.
        keys: of the service.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] != "/" and not scope["path"].startswith(OPEN):
            try:
                scope["state"]["key"] = self._admit(scope)
            except ProblemError as error:
                await problem_response(error, scope["state"]["request_id"], scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> str:
        if not self.keys:
            if not _is_loopback(scope):
                raise ProblemError(
                    403,
                    "no-keys",
                    "this service has no keys, so it answers on loopback only: give it `keys`, or set "
                    f"{VARIABLES['read']} and {VARIABLES['write']}, and start it again",
                )
            return ""
        key = self._key(Headers(scope=scope))
        if scope["method"] in WRITING and key.role != "write":
            raise ProblemError(403, "read-only-key", f"the key {key.name!r} may only read: send one that may write")
        seconds = self.keys.wait(key)
        if seconds:
            raise ProblemError(
                429,
                "too-many-requests",
                f"the key {key.name!r} may send {key.per_second:g} requests a second: wait",
                headers={"Retry-After": str(math.ceil(seconds))},
            )
        return key.name

    def _key(self, headers: Headers) -> Key:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = _cookie(headers.get("cookie", ""))
        if not token:
            raise _unknown("this service asks for a key: send 'Authorization: Bearer KEY'")
        key = self.keys.find(token.strip())
        if key is None:
            raise _unknown("the key is not one of this service's: check it, or ask its operator for another")
        return key


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a host's name or number is this machine's own and reaches no other."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_loopback(scope: Scope) -> bool:
    """Whether a connection came to this machine's own address, and under a name of its own.

    A page elsewhere may have its name lead here (DNS rebinding): the browser sends that name along.
    """
    try:
        asked = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
    except ValueError:
        return False
    return is_loopback((scope.get("server") or ("",))[0]) and is_loopback(asked)


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return unquote(found.value) if found else ""


def _unknown(detail: str) -> ProblemError:
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
