import numpy as np
import pytest

from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving.conftest import FakeModel, ask, fake_app, problem

RIGHT_VECTOR = np.array([1, 0], np.float32)
PREDICTION = Prediction("h1", {"embedding": RIGHT_VECTOR})


def app(outcome: Prediction | Exception = PREDICTION, **options):
    return fake_app(FakeModel(outcome, **options))


def test_search_names_model_and_catalogue():
    answer = ask(app(), "POST", "/v1/search", json={"vector": [3, 4], "k": 1}).json()
    (hit,) = answer["hits"]
    assert hit["id"] == "b"
    assert hit["item"] == {
        **dict.fromkeys(("text", "category", "product_id", "source", "attributes")),
        "title": "B",
        "image": "/v1/items/b/image",
    }
    assert answer["model"] == {"family": "fake", "hash": "h1", "release": None}
    assert answer["catalog"] == {"version": 7, "count": 2, "release": None}
    assert (answer["partial"], answer["shards"]) == (False, {"searched": 1, "total": 1})
    assert answer["latency_ms"] == pytest.approx(sum(answer["stages"].values()), abs=0.1)
    assert set(answer["stages"]) == {"read_ms", "embed_ms", "search_ms", "fetch_ms"}


@pytest.mark.parametrize("batched", [False, True])
def test_session_is_answered_by_one_release(batched):
    """But for a search at the version of a write, which is one of the main release's catalogue."""
    canary = FakeModel(Prediction("h2", {"embedding": RIGHT_VECTOR}), "h2")
    service = fake_app(FakeModel(PREDICTION), canary=canary)

    def releases(**query):
        """The bundle that answers each of a dozen sessions."""
        for session in range(12):
            body = {"vector": [3, 4], **query}
            path, body = ("/v1/search/batch", {"queries": [body]}) if batched else ("/v1/search", body)
            answer = ask(service, "POST", path, json=body, headers={"x-session-id": f"session {session}"}).json()
            yield (answer["outcomes"][0]["answer"] if batched else answer)["model"]["hash"]

    first = [*releases()]
    assert {*first} == {"h1", "h2"}
    assert [*releases()] == first
    assert {*releases(min_version=7)} == {"h1"}


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_vector_of_any_scale_is_used(scale):
    answer = ask(app(), "POST", "/v1/search", json={"vector": [scale, scale / 2]})
    assert [hit["id"] for hit in answer.json()["hits"]] == ["a", "b"]


def test_picture_and_text_are_embedded():
    embedder = FakeModel(PREDICTION)
    service = fake_app(embedder)
    assert ask(service, "POST", "/v1/search", files={"image": drawing(1)}).json()["hits"][0]["id"] == "a"
    assert ask(service, "POST", "/v1/search", data={"text": "x"}, files={"none": b""}).status_code == 422
    assert ask(service, "POST", "/v1/search", json={"text": "shoe"}).status_code == 200
    assert embedder.rows == [{"image": drawing(1)}, {"text": "shoe"}]


def test_model_with_another_bundle_is_503():
    other = app(Prediction("h2", {"embedding": RIGHT_VECTOR}), bundle_hash="h2")
    assert "belong together" in problem(ask(other, "POST", "/v1/search", json={"text": "a"}), 503)["detail"]
    problem(ask(other, "GET", "/readyz"), 503)
    problem(ask(other, "GET", "/v1/models"), 503)
    assert ask(other, "GET", "/livez").json() == {"status": "alive"}


def test_ready_needs_the_model():
    assert ask(app(), "GET", "/readyz").json() == {"status": "ready", "degraded": []}
    problem(ask(app(RuntimeError("gone")), "GET", "/readyz"), 500)


def test_damaged_picture_is_not_sent():
    answer = ask(app(), "GET", "/v1/items/b/image")
    assert problem(answer, 502)["type"] == "urn:galleria:problem:damaged-picture"
    assert "svg" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_request_id_is_kept_if_valid():
    assert ask(app(), "GET", "/livez", headers={"x-request-id": "trace-1:a"}).headers["x-request-id"] == "trace-1:a"
    for odd in ("", "a b", "x" * 200, "<script>"):
        made = ask(app(), "GET", "/livez", headers={"x-request-id": odd}).headers["x-request-id"]
        assert made != odd
        assert len(made) == 32


def test_request_id_is_left_to_the_proxy():
    service = fake_app(FakeModel(Prediction("h1")), proxied=True)
    assert "x-request-id" not in ask(service, "GET", "/livez").headers
