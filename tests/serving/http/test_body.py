import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from galleria.media.limits import Limits
from galleria.serving.config import ServiceConfig
from galleria.serving.http.body import OVERHEAD_BYTES, BodyReader
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.requests import SearchRequest

LIMITS = Limits(image_bytes=100_000, text_characters=10, results=9)
CHUNK = 8_192
FORM = "multipart/form-data; boundary=edge"


def part(name: str, content: bytes, extra: str = "") -> bytes:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


class Caller:
    """Sends chunks without end, and counts them."""

    def __init__(self, kind: str, chunks: list[bytes], pause: float = 0, **headers: str) -> None:
        self.kind, self.chunks, self.pause = kind, chunks, pause
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.sent = 0

    async def receive(self) -> dict[str, object]:
        await asyncio.sleep(self.pause)
        chunk = self.chunks.pop(0) if len(self.chunks) > 1 else self.chunks[0]
        self.sent += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    def read(self, seconds: float = 5.0, list_field: str | None = None):
        headers = [(b"content-type", self.kind.encode()), *self.headers]
        request = Request({"type": "http", "method": "POST", "headers": headers, "path": "/"}, self.receive)
        config = ServiceConfig(models={"mood": "bundle"}, limits=LIMITS, body_timeout_s=seconds)

        async def read():
            bodies = BodyReader(config)
            reading = (
                bodies.read(request, SearchRequest, 1, None, list_field) if list_field else bodies.read_search(request)
            )
            async with reading as query:
                return query

        return asyncio.run(read())


def rejection(caller: Caller, status: int, **options: Any) -> ProblemError:
    with pytest.raises(ProblemError) as error:
        caller.read(**options)
    assert error.value.status == status
    return error.value


def test_reads_json_and_forms():
    assert Caller("application/json; charset=utf-8", [b'{"text": ', b'"shoe", "k": 3}', b""]).read().k == 3
    body = part("image", b"\x00\xff", '; filename="a.png"') + part("k", b"4") + b"--edge--\r\n"
    query = Caller(FORM, [body[:50], body[50:], b""]).read()
    assert (query.image, query.k) == (b"\x00\xff", 4)


def test_unnamed_empty_file_is_ignored():
    body = part("image", b"", '; filename=""') + part("text", b"shoe") + b"--edge--\r\n"
    query = Caller(FORM, [body, b""]).read()
    assert (query.text, query.image) == ("shoe", None)
    assert query.k == 9  # ten, where the limit allows


@pytest.mark.parametrize(
    ("kind", "start", "max_bytes"),
    [
        ("application/json", b'{"image": "', 133_336 + OVERHEAD_BYTES),
        (FORM, part("image", b"", '; filename="a"')[:-2], 100_000 + OVERHEAD_BYTES),
    ],
)
def test_chunked_body_is_read_up_to_the_limit(kind, start, max_bytes):
    caller = Caller(kind, [start, b"A" * CHUNK])
    assert "over the limit" in rejection(caller, 413).detail
    assert caller.sent <= max_bytes + CHUNK


def test_long_content_length_is_rejected_unread():
    caller = Caller("application/json", [b"{}", b""], content_length="999999999")
    rejection(caller, 413)
    assert caller.sent == 0


def test_unsupported_body_names_supported_types():
    """A body with several queries is JSON, not a form."""
    for kind in ("text/plain", FORM):
        problem = rejection(Caller(kind, [b"--edge--", b""]), 415, list_field="queries")
        assert problem.detail == f"the body is {kind.partition(';')[0]}: send application/json"
    problem = rejection(Caller("text/plain", [b"shoe", b""]), 415)
    assert problem.detail == "the body is text/plain: send application/json or multipart/form-data"


def test_slow_body_times_out():
    assert "longer than 0.1 s" in rejection(Caller("application/json", [b"{"], pause=0.03), 408, seconds=0.1).detail


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"shoe", 415),
        ("", b"{}", 415),
        ("application/x-www-form-urlencoded", b"text=shoe", 415),
        ("multipart/form-data", b"--edge", 400),
        (FORM, b"no parts at all", 400),
        (FORM, b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n--edge--\r\n", 400),
        (FORM, part("image", b"1", '; filename="a"') + part("image", b"2", '; filename="b"') + b"--edge--\r\n", 400),
        (FORM, part("text", b"a") + part("text", b"b") + b"--edge--\r\n", 422),
        (FORM, b"".join(part(f"f{n}", b"x") for n in range(20)) + b"--edge--\r\n", 400),
        (FORM, part("text", b"x" * 70_000) + b"--edge--\r\n", 400),
        ("application/json", b'{"text": "shoe", "k": 10}', 422),
        ("application/json", b'{"text": "a long text"}', 422),
    ],
)
def test_unreadable_body_is_rejected(kind, body, status):
    rejection(Caller(kind, [body, b""]), status)
