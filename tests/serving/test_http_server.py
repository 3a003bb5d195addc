"""The HTTP server of a gateway: it takes over a port, gives up slow headers, and hides Serve's routes."""

import asyncio
import functools
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray.serve.config import HTTPOptions

from galleria.serving.http_server import PROXY, REPLICA, harden_http_server, proxy_middlewares
from galleria.serving.ingress import check_port_is_free
from tests.ports import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Start = Callable[[], Awaitable[tuple[Any, Any]]]


@pytest.fixture(params=[REPLICA])
def replica(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve's module of replicas or of proxies as Serve has it, also where this process has changed it before."""
    module = importlib.import_module(request.param)
    start = module.start_asgi_http_server
    original = start.args[0] if isinstance(start, functools.partial) else start
    monkeypatch.setattr(module, "start_asgi_http_server", original)
    return module


async def respond(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def running(replica: Any, options: HTTPOptions) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    task, server = await replica.start_asgi_http_server(respond, options, event_loop=loop, enable_so_reuseport=False)
    while not server.started:
        await asyncio.sleep(0)
    yield
    server.should_exit = True
    await task


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(REQUEST)
    return (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0]


def test_port_of_killed_gateway_is_taken_over(replica):
    """While a client still has its connection to the gateway that is gone, also where the service starts again."""
    harden_http_server()
    harden_http_server()
    options = HTTPOptions(host="127.0.0.1", port=free_port())

    async def run():
        async with running(replica, options):
            first = await asyncio.open_connection(options.host, options.port)
            assert b"204" in await request(*first)
        check_port_is_free(options.host, options.port)
        async with running(replica, options):
            second = await asyncio.open_connection(options.host, options.port)
            assert b"204" in await request(*second)
            for _, writer in (first, second):
                writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("replica", [REPLICA, PROXY], indirect=True)
@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first request", "later request"])
@pytest.mark.parametrize("sent", [b"GET", b"GET / HTTP/1.1\r\n", REQUEST[:-2]])
def test_slow_headers_time_out(replica, before, sent):
    harden_http_server(header_timeout_s=0.2)
    options = HTTPOptions(host="127.0.0.1", port=free_port(), keep_alive_timeout_s=60)

    async def run():
        async with running(replica, options):
            reader, writer = await asyncio.open_connection(options.host, options.port)
            if before:
                assert b"204" in await request(reader, writer)
            writer.write(sent)
            assert b"408" in await reader.readline()
            assert (await reader.read()).endswith(b"\r\n\r\n"), "and the connection is closed"
            writer.close()

    asyncio.run(run())


def test_silent_connection_times_out(replica):
    harden_http_server(header_timeout_s=0.05)
    options = HTTPOptions(host="127.0.0.1", port=free_port())

    async def run():
        async with running(replica, options):
            reader, writer = await asyncio.open_connection(options.host, options.port)
            assert b"408" in await reader.read()
            writer.close()

    asyncio.run(run())


def test_slow_body_does_not_time_out(replica):
    """The routes bound it themselves."""
    harden_http_server(header_timeout_s=0.1)
    options = HTTPOptions(host="127.0.0.1", port=free_port())

    async def run():
        async with running(replica, options):
            reader, writer = await asyncio.open_connection(options.host, options.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
            for _ in range(6):
                await asyncio.sleep(0.05)
                writer.write(b"a")
            assert b"204" in await reader.readline()
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "serves"), [("/-/routes", False), ("/-/routes/", False), ("/-/healthz", True), ("/", True)]
)
def test_routes_of_serve_are_hidden(path, serves):
    """Serve compares the path, and passes others on to the service, which asks for a key."""
    paths = []

    async def app(scope, _receive, _send):
        paths.append(scope["path"])

    middleware, _ = proxy_middlewares()
    asyncio.run(middleware.cls(app)({"type": "http", "path": path}, None, None))
    assert (paths == [path]) == serves
    assert "/-/routes" not in paths
