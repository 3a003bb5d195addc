"""Keys: who may read, who may write, how often, and which requests are admitted without keys."""

import asyncio
import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from galleria.errors import ConfigurationError
from galleria.serving.app import start
from galleria.serving.config import ServiceConfig
from galleria.serving.http.auth import is_loopback
from galleria.serving.http.keys import Keys, TokenBucket, new_key, read_keys
from galleria.serving.inference.types import Prediction
from tests.serving.conftest import FakeModel, FakeSearcher, ask, fake_app, problem

VECTOR = {"json": {"vector": [1, 0]}}
ROUTES = [
    ("POST", "/v1/search", "read"),
    ("POST", "/v1/search/batch", "read"),
    ("GET", "/v1/items/a", "read"),
    ("GET", "/v1/items/a/image", "read"),
    ("GET", "/v1/catalog", "read"),
    ("GET", "/v1/models", "read"),
    ("GET", "/v1/models/search", "read"),
    ("GET", "/v1/limits", "read"),
    ("POST", "/v1/embeddings", "read"),
    ("POST", "/v1/classify/a", "read"),
    ("POST", "/v1/events/a", "read"),
    ("PUT", "/v1/items", "write"),
    ("GET", "/v1/aliases", "read"),
    ("PUT", "/v1/aliases/a", "write"),
    ("DELETE", "/v1/items/a", "write"),
    ("GET", "/metrics", "read"),
    ("GET", "/v2", "read"),
    ("GET", "/v2/models/a", "read"),
    ("GET", "/v2/models/a/ready", "read"),
    ("POST", "/v2/models/a/infer", "read"),
    ("GET", "/v2/models/a/versions/b", "read"),
    ("GET", "/v2/models/a/versions/b/ready", "read"),
    ("POST", "/v2/models/a/versions/b/infer", "read"),
    ("GET", "/v2/health/live", None),
    ("GET", "/v2/health/ready", None),
    ("GET", "/livez", None),
    ("GET", "/readyz", None),
]


@pytest.fixture
def issued(tmp_path):
    """A file of keys, and the keys by their names."""
    file = tmp_path / "keys.json"
    tokens = {name: new_key(file, name, role) for name, role in (("shop", "read"), ("editor", "write"))}
    tokens["slow"] = new_key(file, "slow", "read", per_second=0.1)
    return file, tokens


@pytest.fixture
def app(issued):
    return fake_app(FakeModel(Prediction("h1", {})), keys=read_keys(str(issued[0]), {}))


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_key_file_has_hashes_and_is_private(issued):
    file, tokens = issued
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert all(token not in file.read_text() for token in tokens.values())
    assert len(set(tokens.values())) == 3
    assert {key["role"] for key in json.loads(file.read_text())} == {"read", "write"}


@pytest.mark.parametrize(("method", "path", "role"), ROUTES)
def test_route_requires_its_role(app, issued, method, path, role):
    """S5: each route asks for its role."""
    _, tokens = issued
    if role is None:
        assert ask(app, method, path).status_code == 200
        return
    nobody = ask(app, method, path)
    assert "Bearer" in problem(nobody, 401)["detail"]
    assert nobody.headers["www-authenticate"] == "Bearer"
    problem(ask(app, method, path, headers=bearer("gal_wrong")), 401)
    reader = ask(app, method, path, headers=bearer(tokens["shop"]))
    writer = ask(app, method, path, headers=bearer(tokens["editor"]))
    assert writer.status_code not in (401,)
    if role == "write":
        assert "may only read" in problem(reader, 403)["detail"]
        problem_type = "no-releases" if "aliases" in path else "read-only"
        assert writer.json()["type"] == f"urn:galleria:problem:{problem_type}", "the service itself does not write"
    else:
        assert reader.status_code == writer.status_code


def test_routes_are_those_of_the_reference(app):
    described = ask(app, "GET", "/openapi.json").json()["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    names = {
        "items/a": "items/{item_id}",
        "classify/a": "classify/{model}",
        "events/a": "events/{model}",
        "models/a": "models/{model}",
        "models/search": "models/{model}",
        "versions/b": "versions/{version}",
        "aliases/a": "aliases/{name}",
    }
    listed = set()
    for method, path, _ in ROUTES:
        for example, name in names.items():
            path = path.replace(example, name)  # noqa: PLW2901
        listed.add((method, path))
    assert found == listed


def test_page_and_reference_need_no_key(app):
    for path in ("/", "/page/page.js", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200


def test_cookie_works_and_bad_header_does_not(app, issued):
    token = issued[1]["shop"]
    assert ask(app, "POST", "/v1/search", headers={"cookie": f"a=b; galleria_key={token}"}, **VECTOR).status_code == 200
    assert ask(app, "POST", "/v1/search", headers={"authorization": f"bearer  {token}"}, **VECTOR).status_code == 200
    for headers in (
        {"cookie": 'galleria_key="'},
        {"authorization": token},
        {"authorization": "Bearer"},
        bearer("ü" * 3),
    ):
        encoded = {name: value.encode() for name, value in headers.items()}
        problem(ask(app, "POST", "/v1/search", headers=encoded, **VECTOR), 401)


def test_rate_limit_reports_retry_after(app, issued):
    headers = bearer(issued[1]["slow"])
    first, second = (ask(app, "GET", "/v1/limits", headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert "0.1 requests a second" in problem(second, 429)["detail"]
    assert 1 <= int(second.headers["retry-after"]) <= 10
    assert ask(app, "GET", "/v1/limits", headers=bearer(issued[1]["shop"])).status_code == 200


def test_token_bucket_refills_over_time():
    meter = TokenBucket(2)
    assert [meter.take(0), meter.take(0)] == [0, 0]
    assert meter.take(0) == pytest.approx(0.5)
    assert meter.take(0.25) == pytest.approx(0.25)
    assert meter.take(0.5) == 0
    assert [meter.take(100), meter.take(100)] == [0, 0], "a pause is worth one second of requests"
    assert meter.take(100) > 0
    slow = TokenBucket(0.1)
    assert slow.take(0) == 0
    assert slow.take(0) == pytest.approx(10)


def test_loopback_alone_is_served_without_keys():
    app = fake_app(FakeModel(Prediction("h1", {})))

    async def search_at(host):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.post("/v1/search", **VECTOR)

    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert asyncio.run(search_at(host)).status_code == 200, host
    for host in ("192.168.1.5", "10.0.0.1", "shop.example", "0.0.0.0"):
        assert "GALLERIA_WRITE_KEY" in problem(asyncio.run(search_at(host)), 403)["detail"]
    for host in ("evil.example", "evil.example:8000", "", "["):
        problem(ask(app, "POST", "/v1/search", headers={"host": host}, **VECTOR), 403)


def test_public_host_requires_keys():
    """S4: the error says how to make a key."""
    with pytest.raises(ConfigurationError, match=r"host 0\.0\.0\.0 is reached from other machines.*galleria keys"):
        start(ServiceConfig(models={"mood": "nowhere"}), host="0.0.0.0")


def test_keys_are_read_from_environment():
    keys = read_keys("", {"GALLERIA_READ_KEY": "r", "GALLERIA_WRITE_KEY": "w"})
    found = [keys.find(token) for token in ("r", "w", "x")]
    assert [key.role if key else None for key in found] == ["read", "write", None]
    assert not read_keys("", {})


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '[{"name": "a", "role": "all", "sha256": "0"}]', '[{"name": "a b", "role": "read"}]']
)
def test_invalid_key_file_is_rejected(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(ConfigurationError, match="is not a list of keys"):
        read_keys(str(tmp_path / "keys.json"), {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(str(tmp_path / "none.json"), {})


def test_key_name_is_unique_and_valid(issued):
    with pytest.raises(ConfigurationError, match="already has a key named 'shop'"):
        new_key(issued[0], "shop", "read")
    with pytest.raises(ConfigurationError, match="key name"):
        new_key(issued[0], "a b", "read")
    with pytest.raises(ConfigurationError, match="key per_second"):
        new_key(issued[0], "c", "read", per_second=float("inf"))
    issued[0].write_text(json.dumps(json.loads(issued[0].read_text()) * 2))
    with pytest.raises(ConfigurationError, match="name of two keys"):
        read_keys(str(issued[0]), {})


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
                      ("192.168.0.1", False), ("localhost.evil.example", False), ("", False)]
)  # fmt: skip
def test_loopback_hosts(host, own):
    assert is_loopback(host) is own


@pytest.fixture
def followed(issued):
    """A service that checks its file of keys on every request."""
    return fake_app(FakeModel(Prediction("h1", {})), keys=Keys(file=issued[0], clock=count().__next__))


def without(file: Path, name: str) -> None:
    """Remove a key from a file, as an editor does: the file is replaced."""
    remaining = [key for key in json.loads(file.read_text()) if key["name"] != name]
    new = file.with_suffix(".new")
    new.write_text(json.dumps(remaining))
    new.replace(file)


def status(app, token):
    return ask(app, "GET", "/v1/limits", headers=bearer(token)).status_code


def test_key_file_keeps_concurrent_keys(tmp_path):
    file = tmp_path / "keys.json"
    start_line = Barrier(8)

    def add(number):
        start_line.wait()
        return [new_key(file, f"shop-{number}-{index}", "read") for index in range(4)]

    with ThreadPoolExecutor(8) as pool:
        tokens = [token for added in pool.map(add, range(8)) for token in added]
    keys = read_keys(str(file), {})
    assert all(keys.find(token) for token in tokens)
    assert len(json.loads(file.read_text())) == 32
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {"keys.json", ".keys.json.lock"}


def test_key_revoked_or_added_counts_at_once(followed, issued):
    file, tokens = issued
    assert status(followed, tokens["shop"]) == 200
    without(file, "shop")
    assert status(followed, tokens["shop"]) == 401
    assert status(followed, tokens["editor"]) == 200
    assert status(followed, new_key(file, "late", "read")) == 200


def test_key_file_is_checked_once_a_second(issued):
    file, tokens = issued
    now = 100.0
    keys = Keys(file=file, clock=lambda: now)
    without(file, "shop")
    now = 100.9
    assert keys.find(tokens["shop"])
    now = 101.0
    assert not keys.find(tokens["shop"])
    without(file, "editor")
    now = 3.0  # another machine's clock, behind the first one's
    assert not keys.find(tokens["editor"])


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "an object", "a folder", "two of a name"])
def test_damaged_key_file_keeps_last_keys(followed, issued, damage, caplog):
    file, tokens = issued
    content = file.read_text()
    file.unlink()
    texts = {
        "empty": "",
        "cut": content[:-40],
        "an object": "{}",
        "two of a name": json.dumps(json.loads(content) * 2),
    }
    if damage == "a folder":
        file.mkdir()
    elif damage != "missing":
        file.write_text(texts[damage])
    with caplog.at_level(logging.ERROR, "ray.serve"):
        for _ in range(3):
            assert status(followed, tokens["shop"]) == 200
            assert status(followed, "gal_wrong") == 401
            assert ask(followed, "GET", "/v1/limits").status_code == 401
    assert len([record for record in caplog.records if "stay in use" in record.message]) == 1
    if damage == "a folder":
        file.rmdir()
    file.write_text(content)
    without(file, "shop")
    assert status(followed, tokens["shop"]) == 401
    assert status(followed, tokens["editor"]) == 200


def test_empty_key_list_opens_nothing(followed, issued):
    file, tokens = issued
    file.write_text("[]")
    assert status(followed, tokens["editor"]) == 401
    assert ask(followed, "GET", "/v1/limits").status_code == 401
    started = fake_app(FakeModel(Prediction("h1", {})), keys=read_keys(str(file), {}))
    assert ask(started, "GET", "/v1/limits").status_code == 401


def test_rate_limit_outlives_change_of_file(issued):
    file, tokens = issued
    clock_s = 0.0
    keys = Keys(file=file, clock=lambda: clock_s)
    slow = keys.find(tokens["slow"])
    assert keys.wait_s(slow) == 0
    without(file, "shop")
    clock_s = 2.0
    assert keys.wait_s(keys.find(tokens["slow"])) > 0
    assert not keys.find(tokens["shop"])


@pytest.mark.parametrize("path", ["/v1/items/a/image", "/v1/items/a", "/v1/models", "/v1/limits", "/v1/items/none"])
def test_cache_holds_responses_for_one_client(app, issued, path):
    for headers in ({}, bearer(issued[1]["shop"])):
        assert ask(app, "GET", path, headers=headers).headers["cache-control"] == "private, no-cache"


def test_cached_picture_is_revalidated():
    searcher = FakeSearcher()
    app = fake_app(FakeModel(Prediction("h1", {})), searcher)
    picture = ask(app, "GET", "/v1/items/a/image")
    assert picture.headers["cache-control"] == "private, no-cache"
    tag = picture.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = ask(app, "GET", "/v1/items/a/image", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == "private, no-cache"
    other = ask(app, "GET", "/v1/items/a/image", headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, picture.content)
    searcher.rows = ()
    problem(ask(app, "GET", "/v1/items/a/image", headers={"if-none-match": tag}), 404)
