"""The HTTP servers of gateways and proxies: Ray Serve's, with what they lack among strangers."""

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from galleria.serving.headers import HeadersMiddleware

HEADER_TIMEOUT_S = 10.0
"""How long the headers of a request may take to arrive."""

TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

ROUTES_PATH = "/-/routes"


REPLICA, PROXY = "ray.serve._private.replica", "ray.serve._private.proxy"
"""Modules that start an HTTP server, each in a process of its own."""


def harden_http_server(header_timeout_s: float = HEADER_TIMEOUT_S) -> None:
    """Have this replica or proxy give up headers that arrive slowly, and a replica take over the port of a killed one.

    Ray Serve's replicas listen without SO_REUSEADDR. For a minute or two the port of a killed replica, whose
    connections are still closing, then counts as in use, and Serve, which takes that for another program, never tries
    it again. Linux needs the option on the sockets of both replicas.

    Args:
        header_timeout_s: how long the headers of a request may take to arrive.
    """
    for name, options in ((REPLICA, {"enable_so_reuseport": True}), (PROXY, {})):
        module: Any = sys.modules.get(name)
        if module is not None and not isinstance(module.start_asgi_http_server, functools.partial):
            start = module.start_asgi_http_server
            module.start_asgi_http_server = functools.partial(_start, start, header_timeout_s, options)


async def _start(
    start: Callable[..., Awaitable[Any]],
    header_timeout_s: float,
    own_options: Mapping[str, bool],
    *values: Any,
    **options: Any,
) -> tuple[Any, Any]:
    task, server = await start(*values, **{**options, **own_options})
    server.config.http = functools.partial(TimedProtocol, header_timeout_s)  # it is read when the task begins
    return task, server


class TimedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's protocol, which waits for the headers of a request for a bounded time.

    Args:
        header_timeout_s: from the connection, or from the first byte of a later request, to the end of its headers.
    """

    def __init__(self, header_timeout_s: float, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self._header_timeout_s = header_timeout_s
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, unless all headers of a request have arrived."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timeout is None:
            self._timeout = self.loop.call_later(self._header_timeout_s, self._give_up)

    def _stop(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TIMEOUT_RESPONSE)
            self.transport.close()


class HideRoutesMiddleware:
    """ASGI middleware in front of Ray Serve, which would name its applications at `/-/routes` without an API key."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; one for the routes as one for a path that Serve does not know."""
        if scope.get("path", "").rstrip("/") == ROUTES_PATH:
            scope = {**scope, "path": f"/{ROUTES_PATH}"}
        await self.app(scope, receive, send)


def proxy_middlewares() -> list[Middleware]:
    """Prepare the HTTP server of this process, and return its middleware.

    Ray Serve calls this function, by its name, in gateways and proxies before they listen.
    """
    harden_http_server()
    return [Middleware(HideRoutesMiddleware), Middleware(HeadersMiddleware)]
