"""What browsers and other clients of HTTP rely on, over real sockets."""

import gzip
import io
import json
import re
import socket
from urllib.parse import urlsplit
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from galleria.serving.config import ServiceConfig
from galleria.serving.headers import REQUEST_ID
from galleria.serving.http.keys import read_keys
from galleria.serving.inference.types import Prediction
from tests.serving.conftest import FakeModel, FakeSearcher, fake_app, problem
from tests.serving.served import served

FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
SHOP = "https://shop.example"
KEYS = read_keys("", {"GALLERIA_READ_KEY": "r", "GALLERIA_WRITE_KEY": "w"})
PAGE_PATHS = ("/", "/page/page.js", "/docs", "/docs/swagger-ui.css", "/openapi.json")
PREFLIGHT = {
    "access-control-request-method": "PUT",
    "access-control-request-headers": "authorization,content-type,x-session-id",
}


class IdleWriter:
    async def status(self, locations):
        return []


def make_app(**options):
    models = {"mood": FakeModel(FOUND, kind="classify"), "party": FakeModel(FOUND, kind="events")}
    return fake_app(FakeModel(FOUND), writer=IdleWriter(), **options, **models)


APP = make_app()
NAMES = {"{item_id}": "a", "{version}": "h1", "/classify/{model}": "/classify/mood", "/events/{model}": "/events/party"}


def path_of(template):
    for name, value in NAMES.items():
        template = template.replace(name, value)
    return re.sub(r"\{\w+\}", "search", template)


PATHS = {path_of(path): methods for path, methods in APP.openapi()["paths"].items()}
GET_PATHS = [*PAGE_PATHS, *(path for path, methods in PATHS.items() if "get" in methods)]
BODIES = [
    (method, path)
    for path, methods in PATHS.items()
    for method, operation in methods.items()
    if "requestBody" in operation and "aliases" not in path
]


@pytest.fixture(scope="module")
def site():
    with served(APP) as address, httpx.Client(base_url=address, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def shop():
    """A service with keys, which pages of `SHOP` may use."""
    app = make_app(keys=KEYS, cors_origins=(SHOP,))
    with served(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        yield client


def raw(address, content):
    """Send bytes, and return the response: status, headers in their order, and body."""
    host, port = urlsplit(str(address)).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(content)
        head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.lower().split(": ", 1)) for line in lines]
    return int(status.split()[1]), headers, body


def get(path, *headers, version="1.1"):
    lines = [f"GET {path} HTTP/{version}".encode(), *headers]
    return b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n"


def test_preflight_needs_no_key(shop):
    answer = shop.options("/v1/items", headers={"origin": SHOP, **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]


@pytest.mark.parametrize(("key", "status"), [("r", 200), ("wrong", 401), (None, 401)])
def test_allowed_origin_reads_every_status(shop, key, status):
    headers = {"origin": SHOP} | ({"authorization": f"Bearer {key}"} if key else {})
    answer = shop.post("/v1/search", json={"vector": [1, 0]}, headers=headers)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def test_foreign_origin_is_not_allowed(shop):
    for headers in ({}, PREFLIGHT):
        sent = {"origin": "https://evil.example", "authorization": "Bearer r", **headers}
        answer = shop.request("OPTIONS" if headers else "GET", "/v1/limits", headers=sent)
        assert "access-control-allow-origin" not in answer.headers


def test_cors_is_off_by_default(site):
    assert "access-control-allow-origin" not in site.get("/v1/limits", headers={"origin": SHOP}).headers
    problem(site.options("/v1/items", headers={"origin": SHOP, **PREFLIGHT}), 405)


@pytest.mark.parametrize("origin", ["*", SHOP, "http://localhost:3000", "http://[::1]:3000"])
def test_origin_has_scheme_and_host(origin):
    assert ServiceConfig(models={"m": "b"}, cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize("origin", ["", "shop.example", f"{SHOP}/", f"{SHOP}/page", "https://*.example", "null"])
def test_origin_with_path_is_rejected(origin):
    with pytest.raises(ValidationError, match=re.escape(f"{origin!r} is not an origin")):
        ServiceConfig(models={"m": "b"}, cors_origins=(origin,))


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_get_without_body(site, path):
    of_get, of_head = site.get(path), site.head(path)
    assert of_head.content == b""
    changing = {"date", "x-request-id", *(["content-length"] if path == "/metrics" else [])}
    first, second = ({name: value for name, value in answer.headers.items() if name not in changing}
                     for answer in (of_get, of_head))  # fmt: skip
    assert (of_head.status_code, second) == (of_get.status_code, first)


def test_head_is_counted_by_route(site):
    site.head("/v1/items/a")
    counted = 'galleria_requests_total{method="HEAD",route="/v1/items/{item_id}",status="200"}'
    assert counted in site.get("/metrics").text


@pytest.mark.parametrize("path", PATHS)
def test_allow_lists_every_method(site, path):
    answer = site.request("PATCH", path)
    problem(answer, 405)
    methods = {method.upper() for method in PATHS[path]}
    assert set(answer.headers["allow"].split(", ")) == methods | ({"HEAD"} if "GET" in methods else set())


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_compressed_body_is_rejected(site, method, path):
    for encoding in ("gzip", "br", "gzip, identity"):
        headers = {"content-type": "application/json", "content-encoding": encoding}
        answer = site.request(method, path, content=gzip.compress(b'{"text": "a"}'), headers=headers)
        assert "without Content-Encoding" in problem(answer, 415)["detail"]
        assert answer.headers["accept-encoding"] == "identity"


def test_identity_encoding_is_accepted(site):
    headers = {"content-encoding": "identity"}
    assert site.post("/v1/search", json={"vector": [1, 0]}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", PAGE_PATHS)
def test_long_response_is_compressed(site, path):
    plain = site.get(path, headers={"accept-encoding": "identity"})
    packed = site.get(path, headers={"accept-encoding": "gzip"})
    assert packed.content == plain.content
    assert ("content-encoding" in packed.headers) == (len(plain.content) >= 10_000)
    if "content-encoding" in packed.headers:
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert "content-encoding" not in plain.headers


def bitmap():
    """A picture that gzip could make much smaller."""
    encoded = io.BytesIO()
    Image.new("RGB", (200, 200)).save(encoded, "BMP")
    return encoded.getvalue()


CONTENT = bitmap()
LAST = len(CONTENT) - 1


class Pictures(FakeSearcher):
    """An item with a large picture, and items whose ids URLs take for folders."""

    rows = tuple(
        {**FakeSearcher.rows[0], "id": name, "image": CONTENT, "title": name} for name in ("bitmap", ".", "..")
    )
    vectors = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)


@pytest.fixture(scope="module")
def gallery():
    app = fake_app(FakeModel(FOUND), Pictures())
    with served(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("sent", "status", "first", "last"),
    [
        ("bytes=0-99", 206, 0, 99),
        ("bytes=100-", 206, 100, LAST),
        ("bytes=-2", 206, LAST - 1, LAST),
        ("bytes=-999999", 206, 0, LAST),
        ("bytes=5-5", 206, 5, 5),
        ("BYTES=90000-999999", 206, 90_000, LAST),
        (f"bytes={LAST + 1}-", 416, None, None),
        ("bytes=-0", 416, None, None),
        ("bytes=0-1,5-6", 200, None, None),
        ("bytes=9-5", 416, None, None),
        ("bytes=-", 200, None, None),
        ("bytes=a-b", 200, None, None),
        ("items=0-1", 200, None, None),
        (f"bytes={'9' * 5000}-", 200, None, None),
    ],
)
def test_picture_is_sent_by_range(gallery, sent, status, first, last):
    answer = gallery.get("/v1/items/bitmap/image", headers={"range": sent})
    assert answer.status_code == status
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
        assert answer.content == CONTENT[first : last + 1]
    elif status == 416:
        problem(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    else:
        assert answer.content == CONTENT
        assert answer.headers["accept-ranges"] == "bytes"


def test_range_of_changed_picture_is_all_of_it(gallery):
    tag = gallery.get("/v1/items/bitmap/image").headers["etag"]
    for known, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200)):
        headers = {"range": "bytes=0-0", "if-range": known}
        assert gallery.get("/v1/items/bitmap/image", headers=headers).status_code == status
    known = {"range": "bytes=0-0", "if-none-match": tag}
    assert gallery.get("/v1/items/bitmap/image", headers=known).status_code == 304
    assert gallery.head("/v1/items/bitmap/image", headers={"range": "bytes=0-0"}).status_code == 200


def test_picture_is_not_compressed(gallery):
    answer = gallery.get("/v1/items/bitmap/image", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(CONTENT)


def test_dots_as_ids_survive_clients(gallery):
    hits = gallery.post("/v1/search", json={"vector": [1, 0], "k": 3}).json()["hits"]
    paths = {hit["item"]["title"]: hit["item"]["image"] for hit in hits}
    assert set(paths) == {"bitmap", ".", ".."}
    for item_id, path in paths.items():
        assert gallery.get(path).content == CONTENT
        with urlopen(f"{gallery.base_url}{path}") as response:
            assert response.read() == CONTENT
        assert gallery.get(path.removesuffix("/image")).json()["id"] == item_id
    problem(gallery.get("/v1/items/.%3B"), 404)


def test_missing_host_is_named(site):
    status, _, body = raw(site.base_url, get("/v1/limits", version="1.0"))
    assert status == 403
    assert "the request has no Host header" in json.loads(body)["detail"]
    status, _, body = raw(site.base_url, get("/v1/limits", b"Host: evil.example"))
    assert "the Host header is 'evil.example'" in json.loads(body)["detail"]
    assert raw(site.base_url, get("/v1/limits", b"Host: localhost", version="1.0"))[0] == 200


HEADERS = (
    "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "If-None-Match", "If-Range",
    "Inference-Header-Content-Length", "Origin", "Range", "Traceparent", "User-Agent", "X-Request-Id", "X-Session-Id",
    "X-Request-Timeout-Seconds", "Serve_Multiplexed_Model_Id",
)  # fmt: skip


def assert_ignores_header(address, name):
    sent = get("/v1/limits", b"Host: localhost", f"{name}: ".encode() + b"\xe9\xff")
    status, headers, body = raw(address, sent)
    assert status == 200, body
    (request_id,) = [value for header, value in headers if header == "x-request-id"]
    assert REQUEST_ID.fullmatch(request_id)


@pytest.mark.parametrize("name", HEADERS)
def test_header_not_utf8_counts_as_not_sent(shop, site, name):
    assert_ignores_header(site.base_url, name)
    if name == "Authorization":
        status, _, body = raw(shop.base_url, get("/v1/limits", b"Host: a", b"Authorization: Bearer \xe9"))
        assert (status, json.loads(body)["title"]) == (401, "Unauthorized")


@pytest.mark.ray
@pytest.mark.parametrize("name", HEADERS)
def test_service_ignores_header_not_utf8(address, name):
    assert_ignores_header(address, name)


@pytest.mark.ray
@pytest.mark.parametrize(
    "sent",
    [[], [b"mine-1"], [b"a b"], [b"x" * 200], [b""], [b"\xe9"], [b"one", b"two"], ["schön".encode()]],
)
def test_request_id_is_the_same_everywhere(address, sent):
    lines = [b"X-Request-Id: " + each for each in sent]
    status, headers, body = raw(address, get("/v1/items/none", b"Host: localhost", *lines))
    assert status == 404
    request_id = json.loads(body)["request_id"]
    assert [value for header, value in headers if header == "x-request-id"] == [request_id]
    if sent == [b"mine-1"]:
        assert request_id == "mine-1"
    else:
        assert REQUEST_ID.fullmatch(request_id)


@pytest.mark.ray
def test_service_has_head_range_and_allow(client, catalogue):
    path = "/v1/items/0-studio/image"
    picture = catalogue.images[catalogue.ids.index("0-studio")]
    head = client.head(path)
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(picture))
    part = client.get(path, headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, picture[1:4])
    refused = client.post(path)
    assert refused.headers["allow"] == "HEAD, GET"
    packed = client.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["info"]["title"] == "galleria"
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    problem(client.post("/v1/search", content=gzip.compress(b'{"text": "a"}'), headers=headers), 415)
    assert client.put("/v1/items", json={"items": [{"id": "..", "vector": [1.0] * 32}]}).status_code == 200
    found = client.post("/v1/search", json={"item": "..", "filter": {"title": {"$exists": False}}, "k": 50})
    assert found.status_code == 200
    assert client.get("/v1/items/..;").json()["id"] == ".."
    assert client.delete("/v1/items/..;").json()["items"][0]["status"] == "deleted"
