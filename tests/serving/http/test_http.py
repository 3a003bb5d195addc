"""The running service, over real HTTP."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tests.drawings import drawing
from tests.media.films import film, solid, sound_only
from tests.serving.bundles import contract_rows, presented
from tests.serving.conftest import LIMITS, ODD_IDS, embed, problem

pytestmark = pytest.mark.ray


def search(client, **options):
    return client.post("/v1/search", **options)


def test_indexed_picture_finds_itself(client, catalogue):
    for item_id, image in list(zip(catalogue.ids, catalogue.images, strict=False))[:5]:
        hit = search(client, files={"image": image}, data={"k": "1"}).json()["hits"][0]
        assert hit["id"] == item_id
        assert hit["score"] == pytest.approx(1, abs=1e-4)


def test_search_equals_predict(client, catalogue, bundle):
    queries = ({"image": drawing(500)}, {"text": "thing number 7"})
    bodies = ({"image": base64.b64encode(drawing(500)).decode()}, {"text": "thing number 7"})
    for row, body in zip(queries, bodies, strict=True):
        vector = embed(bundle, [row])[0]
        expected = np.sort(catalogue.vectors @ vector)[::-1][:10]
        hits = search(client, json=body).json()["hits"]
        np.testing.assert_allclose([hit["score"] for hit in hits], expected, atol=1e-4)
        same = search(client, json={"vector": vector.tolist()}).json()["hits"]
        assert [hit["id"] for hit in same] == [hit["id"] for hit in hits]


def test_response_names_item_model_and_catalogue(client, catalogue):
    answer = search(client, json={"vector": catalogue.vectors[0].tolist(), "k": 50}).json()
    assert len(answer["hits"]) == len(catalogue.ids) < 50
    assert answer["hits"][0]["item"] == {
        "title": "Thing 0",
        "text": "thing number 0",
        "category": ["things", "even"],
        "product_id": "product 0",
        "source": "studio",
        "attributes": None,
        "image": "/v1/items/0-studio/image",
    }
    assert answer["hits"][-1]["id"] == "bare"
    assert answer["model"] == {"family": "text_guided", "hash": catalogue.bundle.hash, "release": None}
    assert answer["catalog"]["count"] == len(catalogue.ids)
    assert answer["catalog"]["version"] == client.get("/v1/catalog").json()["version"]


def test_vector_is_returned_on_request(client, catalogue):
    assert client.get("/v1/items/0-studio").json()["vector"] is None
    vector = client.get("/v1/items/0-studio", params={"with_vector": True}).json()["vector"]
    np.testing.assert_allclose(vector, catalogue.vectors[0], atol=1e-6)


def test_batched_queries_fail_alone(client, catalogue):
    bad = drawing(3)[:-40]
    sent = [image for image in catalogue.images[:7] for image in (image, bad)]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda image: search(client, files={"image": image}, data={"k": "1"}), sent))
    assert [answer.status_code for answer in answers] == [200, 422] * 7
    assert [answer.json()["hits"][0]["id"] for answer in answers[::2]] == catalogue.ids[:7]


@pytest.mark.parametrize("item_id", ["0-studio", *ODD_IDS])
def test_items_of_any_id(client, catalogue, item_id):
    """I8: an id may have any characters."""
    path = f"/v1/items/{quote(item_id, safe='')}"
    answer = client.get(path).json()
    assert (answer["id"], answer["item"]["image"]) == (item_id, f"{path}/image")
    picture = client.get(answer["item"]["image"])
    assert picture.content == catalogue.images[catalogue.ids.index(item_id)]
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"] == "private, no-cache"
    again = client.get(f"{path}/image", headers={"if-none-match": picture.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/v1/items/unknown", "/v1/items/unknown/image", "/v1/items/bare/image", "/v1/items/..%2F..%2Fetc%2Fpasswd",
     "/v1/items/%FF%FE", "/v1/items/", "/page/..%2Fgateway.py", "/docs/none.js", "/nothing"],
)  # fmt: skip
def test_missing_path_is_404(client, path):
    problem(client.get(path), 404)


def test_foreign_host_header_is_rejected(client):
    problem(client.get("/v1/catalog", headers={"host": "evil.example"}), 403)
    assert client.get("/v1/catalog", headers={"host": "localhost:8000"}).status_code == 200


def test_overlong_item_id_is_rejected(client):
    assert "1 to 512 bytes" in problem(client.get("/v1/items/" + "x" * 2000), 422)["detail"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/search"), ("POST", "/v1/items/a"), ("POST", "/livez"), ("PUT", "/")]
)
def test_wrong_methods(client, method, path):
    problem(client.request(method, path), 405)


def _encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size).save(made, kind)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"hello, I am text", 415, "unsupported-media"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported-media"),
        (b"%PDF-1.7 ...", 415, "unsupported-media"),
        (b"", 422, "broken-media"),
        (drawing(1)[:-40], 422, "broken-media"),
        (drawing(1)[:20], 422, "broken-media"),
        (_encoded((4000, 4000)), 413, "too-large"),
        (b"x" * (LIMITS.image_bytes + 1), 413, "too-large"),
    ],
)
def test_bad_pictures(client, content, status, kind):
    in_form = search(client, files={"image": ("a.png", content, "image/png")})
    in_json = search(client, json={"image": base64.b64encode(content).decode()})
    for answer in (in_form, in_json):
        assert problem(answer, status)["type"] == f"urn:galleria:problem:{kind}"


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_oversized_body_is_rejected(client, kind):
    size = 2 * LIMITS.image_bytes
    start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' if "form" in kind else b'"'
    problem(search(client, content=start + b"A" * size, headers={"content-type": kind}), 413)
    chunks = (start, *[b"A" * 10_000] * (size // 10_000))
    problem(search(client, content=iter(chunks), headers={"content-type": kind}), 413)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"[" * 100_000, 400, None),
        (b"\xff\xfe", 400, None),
        (b"", 400, None),
        (b"[]", 422, "body"),
        (b"{}", 422, "body"),
        (b'{"txt": "a"}', 422, "txt"),
        (b'{"text": "a", "image": "aGk="}', 422, "body"),
        (b'{"text": 5}', 422, "text"),
        (b'{"text": ""}', 422, "text"),
        (b'{"text": "%s"}' % (b"a" * 101), 422, "text"),
        (b'{"image": "???"}', 422, "image"),
        (b'{"text": "a", "k": 0}', 422, "k"),
        (b'{"text": "a", "k": -1}', 422, "k"),
        (b'{"text": "a", "k": 51}', 422, "k"),
        (b'{"text": "a", "k": 1001}', 422, "k"),
        (b'{"text": "a", "k": 1e300}', 422, "k"),
        (b'{"text": "a", "k": "many"}', 422, "k"),
        (b'{"text": "a", "k": null}', 422, "k"),
        (b'{"vector": [NaN, 1]}', 422, "vector.0"),
        (b'{"vector": [1, 1e999]}', 422, "vector.1"),
        (b'{"vector": "[1]"}', 422, "vector"),
        (b'{"vector": []}', 422, "vector"),
    ],
)
def test_bad_json(client, body, status, field):
    """I8: so are numbers and ids beyond their limits."""
    rejected = problem(search(client, content=body, headers={"content-type": "application/json"}), status)
    if field:
        assert rejected["errors"][0]["field"] == field
        assert rejected["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize(("values", "said"), [([1.0] * 5, "5 values"), ([0.0] * 32, "zero"), ([1.0] * 33, "33 values")])
def test_wrong_vector_is_rejected(client, values, said):
    """I8: a vector that cannot be searched is 422."""
    assert said in problem(search(client, json={"vector": values}), 422)["detail"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": {"text": "a"}}, 415),
        ({"content": b"a", "headers": {"content-type": "text/plain"}}, 415),
        ({"files": {"picture": b"a"}}, 422),
        ({"files": {"image": drawing(1)}, "data": {"text": "a"}}, 422),
        ({"files": {"image": drawing(1)}, "data": {"k": "0"}}, 422),
        ({"files": {"image": drawing(1)}, "data": {"k": "x"}}, 422),
        ({"files": {"image": drawing(1)}, "data": {"vector": "[1]"}}, 422),
        ({"files": [("image", drawing(1)), ("image", drawing(2))]}, 400),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400),
    ],
)
def test_bad_forms(client, options, status):
    problem(search(client, **options), status)


def test_service_describes_itself(client, catalogue):
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready", "degraded": []}
    assert client.get("/v1/limits").json() == LIMITS.model_dump()
    listed = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
    assert listed["search"] == {
        "name": "search",
        "kind": "search",
        "family": "text_guided",
        "hash": catalogue.bundle.hash,
        "release": None,
        "dimension": 32,
        "slices": [8, 16],
        "levels": 0,
        "inputs": ["image", "text"],
        "metrics": {},
        "runtime": listed["search"]["runtime"],
    }
    assert {model["runtime"] for model in listed.values()} <= {"torch", "onnx"}
    assert {name: (model["kind"], model["family"], model["inputs"]) for name, model in listed.items()} == {
        "search": ("search", "text_guided", ["image", "text"]),
        "mood": ("classify", "aesthetic_emotion", ["image"]),
        "party": ("events", "video_event", ["video"]),
    }


def test_request_id_is_returned(client):
    assert client.get("/livez", headers={"x-request-id": "mine-1"}).headers.get_list("x-request-id") == ["mine-1"]


def test_reference_describes_search(client):
    described = client.get("/openapi.json").json()
    search_route = described["paths"]["/v1/search"]["post"]
    assert set(search_route["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert "words" in search_route["requestBody"]["content"]["application/json"]["examples"]
    assert set(search_route["responses"]["415"]["content"]) == {"application/problem+json"}
    for path, field in (("/v1/classify/{model}", "image"), ("/v1/events/{model}", "video")):
        route = described["paths"][path]["post"]
        assert set(route["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == {field}
        assert field in route["requestBody"]["content"]["application/json"]["example"]
        answer = route["responses"]["200"]["content"]["application/json"]
        assert set(answer["example"]) == {"result", "model", "stages", "latency_ms"}
        assert answer["schema"]["$ref"].endswith("/PredictionResponse")
        assert set(route["responses"]["404"]["content"]) == {"application/problem+json"}


def test_predictions_equal_those_of_bundle(client, models):
    image = contract_rows("aesthetic_emotion")[1]["image"]
    video = film([solid((40 * second, 90, 30)) for second in range(5) for _ in range(4)], rate=4)
    for path, name, field, content in (
        ("/v1/classify/mood", "mood", "image", image),
        ("/v1/events/party", "party", "video", video),
    ):
        expected = presented(models[name], {field: content})
        for body in ({"files": {field: content}}, {"json": {field: base64.b64encode(content).decode()}}):
            answer = client.post(path, **body).json()
            bundle = models[name]
            named = {"name": name, "family": bundle.family.name, "hash": bundle.hash, "release": None}
            assert answer["model"] == named
            assert answer["stages"]["predict_ms"] > 0
            _assert_alike(answer["result"], expected)


def _assert_alike(found, expected):
    """Equal but for the last digits of numbers: networks of other threads add up in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            _assert_alike(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_alike(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def test_batched_predictions_fail_alone(client):
    good, bad = drawing(3), drawing(3)[:-40]
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(client.post, "/v1/classify/mood", files={"image": image}) for image in (good, bad) * 4]
    assert [answer.result().status_code for answer in sent] == [200, 422] * 4


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 422), (b"text", 415), (sound_only(), 415), (bytes(LIMITS.video_bytes + 70_000), 413)],
    ids=["empty", "text", "sound", "large"],
)
def test_bad_videos(client, content, status):
    problem(client.post("/v1/events/party", files={"video": ("a.mp4", content)}), status)
    chunks = (b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n', content, b"\r\n--b--\r\n")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem(client.post("/v1/events/party", content=iter(chunks), headers=headers), status)


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/classify/none", 404), ("/v1/classify/party", 422), ("/v1/events/search", 422)]
)
def test_wrong_model_is_rejected(client, path, status):
    problem(client.post(path, files={"image": drawing(1)}), status)
