"""Files are fetched by HTTP with limits, and not from private addresses."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from galleria.errors import DataError
from galleria.media.fetch import Fetcher, FetchOptions, is_public, is_url


class Shop(BaseHTTPRequestHandler):
    """A shop's pictures, and what goes wrong with them."""

    def do_GET(self) -> None:
        server: Any = self.server
        with server.lock:
            server.requests.append(self.path)
            server.open += 1
            server.max_open = max(server.max_open, server.open)
        status, headers, body = 200, {}, f"content of {self.path}".encode()
        if self.path == "/busy.jpg" and server.requests.count("/busy.jpg") < 3:
            status = 503
        elif self.path == "/lost.jpg":
            status = 404
        elif self.path == "/moved.jpg":
            status, headers = 302, {"Location": "/new.jpg"}
        elif self.path == "/loop.jpg":
            status, headers = 302, {"Location": "/loop.jpg"}
        elif self.path == "/inside.jpg":
            status, headers = 301, {"Location": "http://169.254.169.254/latest/meta-data"}
        elif self.path == "/file.jpg":
            status, headers = 301, {"Location": "file:///etc/passwd"}
        elif self.path == "/large.jpg":
            body = b"x" * 2000
        elif self.path == "/short.jpg":
            headers = {"Content-Length": "100"}
        elif self.path == "/slow.jpg":
            server.released.wait(30)
        elif self.path.startswith("/together"):
            server.released.wait(0.05)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may not wait for it
            self.wfile.write(body)
        with server.lock:
            server.open -= 1

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def shop() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.lock, server.released = threading.Lock(), threading.Event()
    server.requests, server.open, server.max_open = [], 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetcher(**options: Any) -> Fetcher:
    return Fetcher(FetchOptions(**({"allow_private": True, "backoff_s": 0.0} | options)))


def test_content_is_fetched_and_cached(shop: Any, tmp_path: Path) -> None:
    for _ in range(2):
        content = fetcher(cache=str(tmp_path / "cache")).fetch(f"{shop.url}/ä b.jpg?x=1#part")
        assert content == b"content of /%C3%A4%20b.jpg?x=1"

    assert len(shop.requests) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_busy_server_is_tried_again(shop: Any) -> None:
    assert fetcher().fetch(f"{shop.url}/busy.jpg") == b"content of /busy.jpg"
    assert shop.requests == ["/busy.jpg"] * 3


def test_redirects_are_followed(shop: Any) -> None:
    assert fetcher().fetch(f"{shop.url}/moved.jpg") == b"content of /new.jpg"


@pytest.mark.parametrize(
    ("path", "message", "requests"),
    [
        ("lost.jpg", "answers HTTP 404: fix the URL", 1),
        ("loop.jpg", "is redirected over 5 times", 6),
        ("file.jpg", "is not a URL of HTTP", 1),
        ("large.jpg", "is over 1,000 bytes", 1),
        ("short.jpg", "cannot be fetched", 2),
        ("slow.jpg", "cannot be fetched", 2),
    ],
)
def test_failure_is_named(shop: Any, path: str, message: str, requests: int) -> None:
    with pytest.raises(DataError, match=message):
        fetcher(attempts=2, max_bytes=1000, timeout_s=0.3).fetch(f"{shop.url}/{path}")

    assert len(shop.requests) == requests


def test_private_addresses_are_refused(shop: Any) -> None:
    for url in (shop.url, f"http://localhost:{shop.server_port}/a.jpg", "http://[::1]/a.jpg", "http://0x7f000001/a"):
        with pytest.raises(DataError, match="is at the private address"):
            fetcher(allow_private=False).fetch(url)

    assert shop.requests == []


def test_redirects_to_private_addresses_are_refused(shop: Any) -> None:
    public = Fetcher(FetchOptions(), is_allowed=lambda address: address == "127.0.0.1" or is_public(address))

    with pytest.raises(DataError, match=r"is at the private address 169\.254\.169\.254"):
        public.fetch(f"{shop.url}/inside.jpg")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) == expected


def test_connections_per_host_are_limited(shop: Any) -> None:
    shared = fetcher(connections_per_host=2)
    contents: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: contents.append(shared.fetch(f"{shop.url}/together{n}")))  # type: ignore[misc]
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(contents)) == 8
    assert shop.max_open <= 2


@pytest.mark.parametrize("url", ["http://", "https:///a.jpg", "http://a:b/c", "http://" + "a" * 300 + ".com/x"])
def test_invalid_url_is_named(url: str) -> None:
    with pytest.raises(DataError, match="is not a"):
        fetcher().fetch(url)


def test_urls_are_not_paths() -> None:
    assert [is_url(path) for path in ("https://a", "HTTP://a", "s3://a", "http", "/http://a")] == [
        True,
        True,
        False,
        False,
        False,
    ]
