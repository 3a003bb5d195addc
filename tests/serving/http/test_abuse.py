"""Oversized, chunked, slow and malformed bodies on every route of the OpenAPI document."""

import asyncio
import base64
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

from galleria.catalog.writer import WriteResult
from galleria.serving.config import ServiceConfig
from galleria.serving.http.middleware import MAX_LINGER_BYTES, MAX_REST_BYTES
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving import virtual_time
from tests.serving.conftest import LIMITS, FakeModel, fake_app
from tests.serving.http.test_uploads import mutated
from tests.serving.served import served
from tests.soak import rounds

CHUNK = 64 * 1024
FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
PLAIN = Prediction("h1", {"scores": {}})
JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"multipart/form-data; boundary=edge")
CHUNKED = (b"transfer-encoding", b"chunked")
NAMES = {"classify": "mood", "events": "party"}


class Discard:
    """A writer that keeps nothing."""

    async def put(self, puts, origin):
        return [WriteResult(8, ("created",) * len(put.items)) for put in puts]


def make_app(**options):
    models = {name: FakeModel(PLAIN, kind=kind) for name, kind in (("mood", "classify"), ("party", "events"))}
    return fake_app(FakeModel(FOUND), **{"writer": Discard(), **models, **options})


APP = make_app()
ROUTES = [
    (method.upper(), re.sub(r"\{\w+\}", NAMES.get(path.split("/")[2], "search") if path.count("/") > 1 else "", path))
    for path, methods in ((path.replace("{version}", "h1"), each) for path, each in APP.openapi()["paths"].items())
    for method in methods
]
BODIES = [(method, path) for method, path in ROUTES if method in ("POST", "PUT") and "aliases" not in path]
OTHERS = [route for route in ROUTES if route not in BODIES]


class Exchange(NamedTuple):
    """A response, and the number of bytes that were received before it began, and in all."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    before: int
    received: int


async def exchange(
    method: str, path: str, chunks: Iterator[bytes], *headers: tuple[bytes, bytes], pause_s: float = 0, app: Any = APP
) -> Exchange:
    """Send chunks for as long as the application receives them."""
    received, before, status, content, answered = 0, 0, 0, b"", {}

    async def receive() -> dict[str, Any]:
        nonlocal received
        await asyncio.sleep(pause_s)
        chunk = next(chunks, b"")
        received += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal before, status, content
        if message["type"] == "http.response.start":
            before, status = received, message["status"]
            answered.update({name.decode(): value.decode() for name, value in message["headers"]})
        else:
            content += message.get("body", b"")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    is_json = "json" in answered.get("content-type", "")
    return Exchange(status, answered, json.loads(content) if is_json else {}, before, received)


def endless(start: bytes = b"", fill: bytes = b"A") -> Iterator[bytes]:
    yield start or fill
    while True:
        yield fill * (CHUNK // len(fill))


def rejected(answer: Exchange, *statuses: int) -> None:
    assert answer.status in statuses
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["detail"]


FILE = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(("start", "kind"), [(b'{"text": "', JSON), (FILE, FORM)], ids=["json", "form"])
def test_endless_body_is_read_up_to_its_limit(method, path, start, kind):
    """I7: no more is read than the limit and what is in flight."""
    answer = asyncio.run(exchange(method, path, endless(start), kind, CHUNKED))
    if answer.status == 415 or ("infer" in path and kind == FORM):
        rejected(answer, 415, 413)
    else:
        rejected(answer, 413)
    limit = re.search(r"over the limit of ([\d,]+) bytes", answer.body["detail"])
    limit_bytes = int(limit[1].replace(",", "")) if limit else 0
    assert answer.before <= limit_bytes + MAX_REST_BYTES + 2 * CHUNK
    assert answer.received <= answer.before + MAX_LINGER_BYTES + CHUNK
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_declared_size_is_rejected_unread(method, path):
    """I7: a length over the limit is enough."""
    answer = asyncio.run(exchange(method, path, endless(b"{"), JSON, (b"content-length", b"999999999")))
    rejected(answer, 413)
    assert answer.before <= MAX_REST_BYTES + 2 * CHUNK


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(("start", "kind"), [(b"{", JSON), (FILE, FORM)], ids=["json", "form"])
def test_slow_body_is_rejected(method, path, start, kind):
    """I7: a body of a byte a second is given up."""
    answer = virtual_time.run(exchange(method, path, iter([start] + [b" "] * 100), kind, CHUNKED, pause_s=1))
    rejected(answer, 408, 415)
    assert answer.received <= len(start) + 10
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([b"[" * 100_000], JSON),
        ([b'{"a":' * 20_000], JSON),
        ([b'{"text": "a"'], JSON),
        ([b"\xff\xfe"], JSON),
        ([b""], JSON),
        ([b"--edge"], FORM),
        ([b"no parts"], FORM),
        ([b"--edge\r\n" + b"x" * 100_000], FORM),
        ([b"--edge\r\n" + b"x: y\r\n" * 1000], FORM),
        ([b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'] * 100, FORM),
        ([FILE + b"cut short"], FORM),
        ([b"x"], (b"content-type", b"multipart/form-data")),
    ],
)
def test_malformed_body_is_rejected(method, path, chunks, kind):
    """I7: bad multipart, deep JSON and bodies that end early."""
    answer = asyncio.run(exchange(method, path, iter(chunks), kind, CHUNKED))
    rejected(answer, 400, 415)
    assert kind != JSON or answer.status == 400


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize("unit", [b"{},", b'"",', b"0,", b'{"a":[]},'])
def test_many_values_are_rejected_early(method, path, unit):
    """I7: they are counted before anything is built."""
    answer = asyncio.run(exchange(method, path, endless(b'{"queries": [', unit), JSON, CHUNKED))
    rejected(answer, 413)
    assert "values" in answer.body["detail"] or path != "/v1/search/batch"
    assert answer.before <= 20_000_000


PICTURE = base64.b64encode(drawing(1)).decode()
FIELDS = {
    "/v1/search": {"text": "a", "k": 3, "filter": {"price": {"$lt": 5}}, "min_score": 0.5},
    "/v1/search/batch": {"queries": [{"image": PICTURE}, {"vector": [1, 0]}, {"mix": [{"text": "a", "weight": -1}]}]},
    "/v1/items": {"items": [{"id": "a", "image": PICTURE, "attributes": {"n": 1.5}}, {"id": "b", "vector": [1, 0]}]},
    "/v1/embeddings": {"input": ["a", f"data:image/png;base64,{PICTURE}"], "encoding_format": "base64"},
    "/v1/classify/mood": {"image": PICTURE},
    "/v1/events/party": {"video": PICTURE},
    "/v2/models/search/infer": {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [PICTURE]}],
    },
}
FIELDS["/v2/models/search/versions/h1/infer"] = FIELDS["/v2/models/search/infer"]


def form_of(fields: dict[str, Any]) -> bytes:
    parts = (value if isinstance(value, str) else json.dumps(value) for value in fields.values())
    head = b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    files = [b'; filename="a"' if name in ("image", "video") else b"" for name in fields]
    named = zip(fields, files, parts, strict=True)
    return b"".join(head % (name.encode(), file, part.encode()) for name, file, part in named) + b"--edge--\r\n"


def changed(random: Random, body: bytes) -> bytes:
    """The body with wrong bytes of any kind, or with other characters, which a parser may accept."""
    if random.random() < 0.3:
        return mutated(random, body)
    text = bytearray(body)
    for _ in range(random.randint(1, 3)):
        text[random.randrange(len(text))] = random.randrange(32, 127)
    return bytes(text)


def test_mutated_bodies_are_no_failures():
    """I7: a body with wrong bytes is answered, or rejected for what is wrong with it."""
    statuses = Counter()
    for random in rounds(20):
        for method, path in BODIES:
            for kind, body in ((JSON, json.dumps(FIELDS[path]).encode()), (FORM, form_of(FIELDS[path]))):
                chunks = iter([changed(random, body)])
                headers = [kind, CHUNKED] if random.random() < 0.9 else [CHUNKED]
                answer = asyncio.run(exchange(method, path, chunks, *headers))
                statuses[answer.status] += 1
                if answer.status != 200:
                    rejected(answer, 400, 413, 415, 422)
    assert {200, 400, 415, 422} <= set(statuses)


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_body_of_other_routes_is_not_read(method, path):
    """I7: where none belongs."""
    expected = asyncio.run(exchange(method, path, iter([]))).status
    answer = asyncio.run(exchange(method, path, endless(), JSON, CHUNKED))
    assert answer.status == expected
    assert answer.before <= MAX_REST_BYTES + 2 * CHUNK
    assert answer.headers["connection"] == "close"


def test_short_unread_body_keeps_the_connection():
    answer = asyncio.run(exchange("GET", "/livez", iter([b"{}"]), JSON, CHUNKED))
    assert (answer.status, answer.received, "connection" in answer.headers) == (200, 2, False)


QUERIES = {
    "/v1/search": {"text": "a"},
    "/v2/models/search/infer": {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGk="]}],
    },
}


@pytest.mark.parametrize("path", QUERIES)
def test_slow_bodies_hold_no_capacity(path):
    """I7: others are answered meanwhile."""

    async def main(send: Callable[..., Any]):
        slow = [asyncio.create_task(send(iter([b" "] * 99), pause_s=1)) for _ in range(100)]
        await asyncio.sleep(3)
        body = json.dumps(QUERIES[path]).encode()
        quick = [(await send(iter([body]))).status for _ in range(40)]
        return quick, [(await task).status for task in slow]

    app = make_app(max_concurrent_queries=4)

    def send(chunks, pause_s: float = 0):
        return exchange("POST", path, chunks, JSON, CHUNKED, pause_s=pause_s, app=app)

    quick, slow = virtual_time.run(main(send))
    assert quick == [200] * 40
    assert set(slow) == {408, 429}


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_writes_over_the_limit_are_rejected(method):
    class Slow(Discard):
        async def put(self, puts, origin):
            await asyncio.sleep(1)
            return await super().put(puts, origin)

        async def delete(self, locations, ids, origin):
            await asyncio.sleep(1)
            return [WriteResult(8, ("deleted",)) for _ in locations]

    app = make_app(writer=Slow())
    limit = ServiceConfig(models={"mood": "bundle"}).max_concurrent_writes
    path = "/v1/items" if method == "PUT" else "/v1/items/a"
    body = json.dumps({"items": [{"id": "a", "vector": [1, 0]}]}).encode()

    async def write():
        return await exchange(method, path, iter([body] if method == "PUT" else []), JSON, CHUNKED, app=app)

    async def main():
        return await asyncio.gather(*(write() for _ in range(limit + 5)))

    answers = asyncio.run(main())
    assert sorted(answer.status for answer in answers) == [200] * limit + [429] * 5
    busy = next(answer for answer in answers if answer.status == 429)
    assert busy.headers["retry-after"] == "1" and "writes are being answered" in busy.body["detail"]


class TextModel(FakeModel):
    """Reads texts alone."""

    async def describe(self, location):
        return replace(await super().describe(location), inputs=("text",))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/models/search/infer"])
def test_text_model_accepts_no_long_body(path):
    count = LIMITS.embedding_inputs if "embed" in path else LIMITS.batch_items
    texts = ["Ä" * LIMITS.text_characters] * count
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    body = json.dumps({"input": texts} if "embed" in path else {"inputs": [tensor]}, ensure_ascii=False).encode()
    answers = {}
    for kind in (TextModel, FakeModel):
        app = fake_app(kind(FOUND))
        answers[kind] = asyncio.run(exchange("POST", path, endless(b'{"input": "'), JSON, CHUNKED, app=app))
        rejected(answers[kind], 413)
    assert answers[TextModel].before < 1_000 * count < answers[FakeModel].before
    assert (
        asyncio.run(exchange("POST", path, iter([body]), JSON, CHUNKED, app=fake_app(TextModel(FOUND)))).status == 200
    )


def test_rejected_sender_can_read_its_response():
    """Over a real socket: it sends for longer than the buffers of the socket hold."""
    with served(APP) as address:
        port = int(address.rpartition(":")[2])

        def upload(_: int) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                head = b"POST /v1/search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                connection.sendall(head + b"content-length: 9000000\r\n\r\n")
                connection.sendall(b" " * 9_000_000)
                return b"".join(iter(lambda: connection.recv(65536), b""))

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(upload, range(4)))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 413 ") and b"\r\nconnection: close\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 413
