"""Stores of pictures: a URI reads a file of an allowed store, contacts nothing else, and costs few bytes."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import quote, unquote

import pytest

from galleria.errors import DataError, MediaTooLargeError, StorageError
from galleria.media.limits import Limits
from galleria.serving.retrieval.image_reader import MAX_CONCURRENT_READS, MAX_CONCURRENT_REQUESTS, ImageReader
from galleria.serving.retrieval.image_store import ImageStores
from galleria.serving.schemas.problems import ProblemError
from tests.ports import free_port

PICTURE = b"a picture"
NAMES = ("a.jpg", "a b.jpg", "größe/日本.jpg", "100%.jpg", "20%20.jpg", "a@b:c.jpg", "..a/b..jpg", "+&=;,~'.jpg")
"""Files in the folder of pictures that can be read, on S3 and on the disk."""

ESCAPES = (
    "?scheme=http&endpoint_override={canary}",
    "a.jpg?scheme=http&endpoint_override={canary}",
    "a.jpg?endpoint_override={canary}&scheme=http&region=us-east-1",
    "a.jpg?endpoint_override=http://{canary}",
    "a.jpg?ENDPOINT_OVERRIDE={canary}",
    "a.jpg?region=us-east-1",
    "a.jpg?",
    "a.jpg?#",
    "a.jpg#",
    "a.jpg#?scheme=http&endpoint_override={canary}",
    "a.jpg%3fscheme=http&endpoint_override={canary}",
    "a.jpg%3Fscheme=http&endpoint_override={canary}",
    "a.jpg%23",
    "what?.jpg",
    "number#1.jpg",
    "../private/secret.jpg",
    "../../private/secret.jpg",
    "x/../../private/secret.jpg",
    "x/../a.jpg",
    "./a.jpg",
    "x/./a.jpg",
    "..",
    "x/..",
    ".",
    "",
    "/",
    "/a.jpg",
    "//{canary}/a.jpg",
    "x//a.jpg",
    "a.jpg/",
    "%2e%2e/private/secret.jpg",
    "%2E./private/secret.jpg",
    ".%2e/private/secret.jpg",
    "%252e%252e/private/secret.jpg",
    "..%2fprivate/secret.jpg",
    "..%2Fprivate%2Fsecret.jpg",
    "%2e%2e%2fprivate%2fsecret.jpg",
    "..%252fprivate/secret.jpg",
    "x%2fa.jpg",
    "%2fetc/passwd",
    "..\\private\\secret.jpg",
    "..%5cprivate%5csecret.jpg",
    "..%255cprivate/secret.jpg",
    "x\\a.jpg",
    "a.jpg\x00",
    "a.jpg%00",
    "a.jpg%00.png",
    "a.jpg\n",
    "a.jpg%0d%0aHost:%20{canary}",
    "a.jpg\x7f",
    "%ff%fe.jpg",
    "%c0%ae%c0%ae/private/secret.jpg",
)
"""What follows the prefix of an allowed store without being a path in it."""

FOREIGN = (
    "s3://shop/private/secret.jpg",
    "s3://shop/pictures-private/secret.jpg",
    "s3://shop/pictures",
    "s3://shop/pictures?/a.jpg",
    "s3://shop/pictures#/a.jpg",
    "s3://shop/pictures%2fa.jpg",
    "s3://shop/pictures%2f..%2fprivate/secret.jpg",
    "s3://shop/pictures\\a.jpg",
    "s3://shop/%70ictures/a.jpg",
    "s3://shop//pictures/a.jpg",
    "s3://shop/x/../pictures/a.jpg",
    "s3://shop/?endpoint_override={canary}&scheme=http&/pictures/a.jpg",
    "s3://id:secret@shop/pictures/a.jpg?endpoint_override={canary}&scheme=http",
    "s3://id:secret@shop/pictures/a.jpg",
    "s3://shop@{canary}/pictures/a.jpg",
    "s3://shop/pictures@{canary}/a.jpg",
    "s3://shop:80@{canary}/pictures/a.jpg",
    "s3://{canary}/pictures/a.jpg",
    "s3://shop.{canary}/pictures/a.jpg",
    "s3://shop2/pictures/a.jpg",
    "S3://shop/pictures/a.jpg",
    "s3:/shop/pictures/a.jpg",
    "s3:shop/pictures/a.jpg",
    " s3://shop/pictures/a.jpg",
    "s3a://shop/pictures/a.jpg",
    "gs://shop/pictures/a.jpg?endpoint_override={canary}&scheme=http",
    "http://{canary}/pictures/a.jpg",
    "http://{canary}/#s3://shop/pictures/a.jpg",
    "//{canary}/pictures/a.jpg",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "/etc/passwd",
    "shop/pictures/a.jpg",
    "",
)
"""URIs in no allowed store."""


class Server(ThreadingHTTPServer):
    """An S3 server on which every object is `PICTURE`; logs the paths of its requests, and counts what it sends."""

    def __init__(self, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or _Handler)
        self.ended = Event()
        self.paths: list[str] = []
        self.sent_bytes = self.active = self.max_active = 0
        self.lock = Lock()
        self.address = f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._respond(200, PICTURE, {"last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"})

    def do_GET(self) -> None:
        first, last = self.headers.get("range", "bytes=0-99").removeprefix("bytes=").split("-")
        content = PICTURE[int(first) : int(last) + 1]
        with self.server.lock:
            self.server.sent_bytes += len(content)
            self.server.active += 1
            self.server.max_active = max(self.server.max_active, self.server.active)
        time.sleep(0.02)
        with self.server.lock:
            self.server.active -= 1
        self._respond(206, content, {"content-range": f"bytes {first}-{last}/{len(PICTURE)}"})
        self.wfile.write(content)

    def _respond(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.server.paths.append(self.path)
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *values: object) -> None:
        pass


@contextmanager
def running(handler: type[BaseHTTPRequestHandler] | None = None) -> Iterator[Server]:
    with Server(handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    """The operator's store, s3://shop/pictures."""
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def canary() -> Iterator[Server]:
    """A server that the operator has not allowed."""
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local store, `pictures`, and files and links beside it that are not in the store."""
    base = tmp_path_factory.mktemp("base")
    for name in (*(f"pictures/{name}" for name in NAMES), "private/secret.jpg", "pictures-private/secret.jpg"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(PICTURE)
    (base / "pictures/x").mkdir()
    (base / "pictures/link.jpg").symlink_to(base / "private/secret.jpg")
    (base / "pictures/up").symlink_to("..")
    (base / "pictures/loop").symlink_to("loop")
    (base / "pictures/inside.jpg").symlink_to("a.jpg")
    os.mkfifo(base / "pictures/pipe")
    return base


@pytest.fixture(scope="module")
def stores(s3, folder):
    """Both stores, as an operator configures them."""
    return ImageStores([remote(s3), f"file://{folder}/pictures/"])


def remote(s3: Server) -> str:
    return f"s3://id:password@shop/pictures?scheme=http&endpoint_override={s3.address}&region=us-east-1"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spelling", ["encoded", "spaces and letters as they are"])
def test_read_returns_picture_of_any_name(stores, s3, folder, name, spelling):
    path = quote(name) if spelling == "encoded" else name.replace("%", "%25")
    for prefix in ("s3://shop/pictures", f"file://{folder}/pictures"):
        assert stores.read(f"{prefix}/{path}", 100) == PICTURE
    assert {unquote(path) for path in s3.paths[-2:]} == {f"/shop/pictures/{name}"}


@pytest.mark.parametrize("prefix", ["s3://shop/pictures/", "file://{folder}/pictures/"])
@pytest.mark.parametrize("path", ESCAPES)
def test_read_rejects_path_out_of_store(stores, s3, canary, folder, prefix, path):
    """S1: no path leaves its store, on disk or in S3."""
    before = list(s3.paths)
    uri = f"{prefix}{path}".format(canary=canary.address, folder=folder)
    with pytest.raises(DataError, match="is not a plain path in its store"):
        stores.read(uri, 100)
    assert (canary.paths, s3.paths) == ([], before)


@pytest.mark.parametrize("uri", FOREIGN)
def test_read_rejects_uri_of_no_store(stores, s3, canary, uri):
    """S1: no other address is requested."""
    before = list(s3.paths)
    with pytest.raises(DataError, match="is not in a store that this service reads") as raised:
        stores.read(uri.format(canary=canary.address), 100)
    assert (canary.paths, s3.paths) == ([], before)
    assert "password" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("link.jpg", "through a link"),
        ("up/private/secret.jpg", "through a link"),
        ("up/pictures-private/secret.jpg", "through a link"),
        ("loop", "link to itself"),
        ("x", "not a file"),
        ("pipe", "not a file"),
        ("none.jpg", "cannot be read"),
        ("n" * 300, "cannot be read"),
    ],
)
def test_local_store_rejects_links_out_of_it(stores, folder, path, message):
    """S2: links out of a store are not followed."""
    with pytest.raises(DataError, match=message):
        stores.read(f"file://{folder}/pictures/{path}", 100)
    assert stores.read(f"file://{folder}/pictures/inside.jpg", 100) == PICTURE
    assert stores.read(f"file://{folder}/pictures/up/pictures/a.jpg", 100) == PICTURE


def test_too_large_picture_is_not_read(stores, s3, folder):
    assert stores.read("s3://shop/pictures/a.jpg", len(PICTURE)) == PICTURE
    before = len(s3.paths)
    for uri in ("s3://shop/pictures/a.jpg", f"file://{folder}/pictures/a.jpg"):
        with pytest.raises(MediaTooLargeError, match="more than 8 bytes"):
            stores.read(uri, len(PICTURE) - 1)
    assert len(s3.paths) == before + 1, "its size is known from the response to HEAD"


def test_stores_of_plain_paths_and_roots(folder):
    assert ImageStores([f"{folder}/pictures"]).read(f"{folder}/pictures/20%20.jpg", 100) == PICTURE
    assert ImageStores(["/"]).read(f"{folder}/pictures/a.jpg", 100) == PICTURE
    assert ImageStores(["file:///"]).read(f"file://{folder}/pictures/a.jpg", 100) == PICTURE
    for uris in ([], [f"file://{folder}/private"]):
        with pytest.raises(DataError, match="is not in a store"):
            ImageStores(uris).read(f"file://{folder}/pictures/a.jpg", 100)


async def read_all(reader: ImageReader, count: int) -> list[bytes | BaseException]:
    """Read the same picture several times in one request."""
    async with reader.request() as read:
        uris = ["s3://shop/pictures/a.jpg"] * count
        return await asyncio.gather(*(read(uri) for uri in uris), return_exceptions=True)


def test_request_reads_no_more_than_its_budget():
    with running() as s3:
        reader = ImageReader([remote(s3)], Limits(image_bytes=10, batch_bytes=3 * len(PICTURE) + 1))

        async def requests() -> None:
            for _ in range(2):  # each request has its own
                await check()

        async def check() -> None:
            before = s3.sent_bytes
            results = await read_all(reader, 44)
            assert results.count(PICTURE) == 3
            errors = [str(error) for error in results if isinstance(error, MediaTooLargeError)]
            assert len(errors) == 41
            assert "more than 28 bytes: send the item in another request" in errors[0]
            assert s3.sent_bytes - before == 3 * len(PICTURE)

        asyncio.run(requests())


def test_too_large_picture_uses_no_budget(s3):
    reader = ImageReader([remote(s3)], Limits(image_bytes=len(PICTURE) - 1, batch_bytes=100))
    before = s3.sent_bytes
    results = asyncio.run(read_all(reader, 44))
    assert {str(error).partition(" has ")[2] for error in results} == {"more than 8 bytes: shrink the picture"}
    assert s3.sent_bytes == before


def test_pictures_are_read_a_few_at_a_time():
    with running() as s3:
        reader = ImageReader([remote(s3)], Limits())
        assert asyncio.run(read_all(reader, 64)) == [PICTURE] * 64
        assert 1 < s3.max_active <= MAX_CONCURRENT_READS


class _Silent(_Handler):
    """Receives requests and does not respond before the test ends."""

    def do_HEAD(self) -> None:
        self.server.ended.wait()
        self._respond(404, b"", {})


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of an S3 server that does not respond."""
    with running(_Silent) as server:
        yield server.address
        server.ended.set()


def test_silent_store_delays_no_other(s3, silent):
    stores = [f"s3://id:password@other/x?scheme=http&endpoint_override={silent}&region=us-east-1", remote(s3)]

    async def requests() -> None:
        reader = ImageReader(stores, Limits(), read_timeout_s=3)
        assert await read_all(reader, 1) == [PICTURE]
        async with reader.request() as read:
            slow = [asyncio.ensure_future(read("s3://other/x/a.jpg")) for _ in range(12)]
            await asyncio.sleep(0)
            assert await read_all(reader, 12) == [PICTURE] * 12
            assert not any(task.done() for task in slow)
            outcomes = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageError}
        assert "did not respond within 3 s" in str(outcomes[0])

    asyncio.run(requests())


@pytest.mark.parametrize("store", [pytest.param("refused", marks=pytest.mark.slow), "not mounted"])
def test_store_that_is_down_is_reported(store, tmp_path):
    refused = f"s3://id:password@shop/pictures?scheme=http&endpoint_override=127.0.0.1:{free_port()}&region=us-east-1"
    uri = refused if store == "refused" else f"file://{tmp_path}/none"
    with pytest.raises(StorageError, match="cannot be reached"):
        ImageStores([uri]).read(f"{uri.partition('?')[0].replace('id:password@', '')}/a.jpg", 100)


def test_messages_show_no_path_of_the_server(folder):
    stores = ImageStores([f"{folder}/pictures", "s3://shop/pictures"])
    for uri in ("http://a/b.jpg", "s3://shop/../b.jpg"):
        with pytest.raises(DataError) as raised:
            stores.read(uri, 100)
        assert str(folder) not in str(raised.value)


def test_request_waits_for_others_a_bounded_time(s3):
    async def requests():
        reader = ImageReader([remote(s3)], Limits(), wait_timeout_s=0.2)
        held = [reader.request() for _ in range(MAX_CONCURRENT_REQUESTS)]
        for request in held:
            await request.__aenter__()
        with pytest.raises(ProblemError, match="requests with an image_uri are being answered") as raised:
            await read_all(reader, 1)
        assert raised.value.status == 429
        waiting = asyncio.create_task(read_all(reader, 1))
        await asyncio.sleep(0.01)
        for request in held:
            await request.__aexit__(None, None, None)
        assert await waiting == [PICTURE]
        assert await asyncio.gather(*(read_all(reader, 1) for _ in range(12))) == [[PICTURE]] * 12

    asyncio.run(requests())
