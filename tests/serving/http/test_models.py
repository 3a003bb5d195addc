"""Models that answer for themselves, and the levels of a search, with the gateway and the models in this process."""

import asyncio
import base64

import numpy as np
import pytest

from galleria.errors import ConfigurationError
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.inference.server import ModelServer
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving.bundles import assert_near, contract_rows, presented, random_bundle
from tests.serving.conftest import (
    LIMITS,
    FakeModel,
    ask,
    embed,
    fake_app,
    local_app,
    location_of,
    problem,
    reference_of,
)

FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
PICTURES = ("aesthetic_emotion", "contour", "garment_gender")
IMAGE = {"files": {"image": drawing(1)}}


def app(**others):
    return fake_app(FakeModel(FOUND), **others)


class TestAddresses:
    def test_response_names_model_and_stages(self):
        mood = FakeModel(Prediction("h1", {"mood": {"label": "calm"}}), kind="classify")
        answer = ask(app(mood=mood), "POST", "/v1/classify/mood", **IMAGE).json()
        assert answer["result"] == {"mood": {"label": "calm"}}
        assert answer["model"] == {"name": "mood", "family": "fake", "hash": "h1", "release": None}
        assert set(answer["stages"]) == {"read_ms", "predict_ms"}
        assert answer["latency_ms"] >= answer["stages"]["predict_ms"]
        assert mood.rows == [{"image": drawing(1)}]

    def test_video_reaches_model_as_bytes(self):
        party = FakeModel(Prediction("h1", {"events": []}), kind="events")
        encoded = base64.b64encode(b"film").decode()
        assert ask(app(party=party), "POST", "/v1/events/party", files={"video": b"film"}).json()["result"] == {
            "events": []
        }
        assert ask(app(party=party), "POST", "/v1/events/party", json={"video": encoded}).status_code == 200
        assert ask(app(party=party), "POST", "/v1/events/party", data={"video": encoded}).status_code == 415
        assert party.rows == [{"video": b"film"}] * 2

    @pytest.mark.parametrize("path", ["/v1/classify/moood", "/v1/events/moood", "/v1/classify/..%2Fmood"])
    def test_unknown_model_lists_the_known(self, path):
        rejected = problem(ask(app(mood=FakeModel(FOUND, kind="classify")), "POST", path, **IMAGE), 404)
        assert "this service has mood, search" in rejected["detail"]

    @pytest.mark.parametrize(
        ("path", "address"),
        [
            ("/v1/classify/search", "POST /v1/search"),
            ("/v1/events/search", "POST /v1/search"),
            ("/v1/classify/party", "POST /v1/events/party"),
            ("/v1/events/mood", "POST /v1/classify/mood"),
        ],
    )
    def test_wrong_kind_of_model_names_its_route(self, path, address):
        models = {"mood": FakeModel(FOUND, kind="classify"), "party": FakeModel(FOUND, kind="events")}
        rejected = problem(ask(app(**models), "POST", path, content=b"never read"), 422)
        assert rejected["type"].endswith(":wrong-model")
        assert rejected["detail"].endswith(address)
        assert not models["mood"].rows + models["party"].rows

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"files": {"image": drawing(1)[:-40]}}, 422),
            ({"files": {"image": drawing(1)[:20]}}, 422),
            ({"files": {"image": ("a.png", b"")}}, 422),
            ({"files": {"image": b"hello"}}, 415),
            ({"files": {"image": b"x" * (LIMITS.image_bytes + 70_000)}}, 413),
            ({"files": {"picture": drawing(1)}}, 422),
            ({"files": {"image": drawing(1)}, "data": {"k": "3"}}, 422),
            ({"json": {}}, 422),
            ({"json": {"image": "?"}}, 422),
            ({"json": {"image": 5}}, 422),
            ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
            ({"content": b"x"}, 415),
        ],
    )
    def test_bad_requests(self, options, status, service):
        problem(ask(service, "POST", "/v1/classify/aesthetic_emotion", **options), status)

    def test_readiness_checks_every_bundle_hash(self):
        good = FakeModel(FOUND, kind="classify")
        assert ask(app(mood=good), "GET", "/readyz").status_code == 200
        for bad in (FakeModel(FOUND, "h2", "classify"), FakeModel(RuntimeError("gone"), kind="classify")):
            answer = ask(app(mood=good, gender=bad), "GET", "/readyz")
            assert answer.status_code in (500, 503)
        rejected = problem(ask(app(gender=FakeModel(FOUND, "h2", "classify")), "GET", "/readyz"), 503)
        assert "model 'gender' runs bundle h2" in rejected["detail"]
        problem(
            ask(app(gender=FakeModel(Prediction("h2", {}), "h1", "classify")), "POST", "/v1/classify/gender", **IMAGE),
            503,
        )

    def test_all_models_are_listed(self):
        listed = ask(app(mood=FakeModel(FOUND, kind="classify")), "GET", "/v1/models").json()["models"]
        assert [(model["name"], model["kind"], model["dimension"]) for model in listed] == [
            ("search", "search", 2),
            ("mood", "classify", None),
        ]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {name: random_bundle(name, folder / name) for name in PICTURES}


@pytest.fixture(scope="module")
def service(bundles):
    """Without a catalogue."""
    paths = {name: str(bundle.path) for name, bundle in bundles.items()}
    return local_app(ServiceConfig(models=paths, limits=LIMITS, runtime="torch"), bundles)


class TestPictures:
    @pytest.mark.parametrize("name", PICTURES)
    def test_response_equals_bundle(self, service, bundles, name):
        image = contract_rows(name)[1]["image"]
        expected = presented(bundles[name], {"image": image})
        encoded = base64.b64encode(image).decode()
        for body in ({"files": {"image": image}}, {"json": {"image": encoded}}):
            answer = ask(service, "POST", f"/v1/classify/{name}", **body).json()
            assert answer["model"] == {"name": name, "family": name, "hash": bundles[name].hash, "release": None}
            assert_near(answer["result"], expected)

    def test_missing_catalogue_is_reported(self, service):
        for method, path in (("POST", "/v1/search"), ("GET", "/v1/items/a"), ("GET", "/v1/items/a/image")):
            assert "no catalogue" in problem(ask(service, method, path), 404)["detail"]
        assert ask(service, "GET", "/readyz").status_code == 200
        assert len(ask(service, "GET", "/v1/models").json()["models"]) == len(PICTURES)


class TestRoles:
    def test_classifier_cannot_search(self, bundles):
        bundle = bundles["aesthetic_emotion"]
        config = ServiceConfig(bundle=str(bundle.path), table="-", index="-")
        with pytest.raises(ConfigurationError, match="does not embed for search: serve its bundle under `models`"):
            ModelServer(config, SEARCH, reference_of(bundle))

    def test_search_model_cannot_classify(self, bundle):
        with pytest.raises(ConfigurationError, match="model 'shop' needs a table and an index"):
            ModelServer(ServiceConfig(models={"shop": str(bundle.path)}), "shop", reference_of(bundle))


class TestLevels:
    def test_search_predicts_every_level(self, tree):
        bundle, service, _ = tree
        answer = ask(service, "POST", "/v1/search", files={"image": drawing(500)}).json()
        expected = presented(bundle, {"image": drawing(500)})
        expected.pop("embedding")
        assert answer["predicted"] == expected
        assert [level["level"] for level in answer["predicted"]["levels"]] == [1, 2]
        assert {one["name"] for one in answer["predicted"]["levels"][0]["classes"]} == {"things"}

    @pytest.mark.parametrize("weights", [[1, 0, 0], [0, 0, 1], [0.2, 0.3, 0.5], [3, 0, 1]])
    def test_score_is_weighted_sum_of_levels(self, tree, weights):
        bundle, service, vectors = tree
        own = np.array(bundle.context.config.level_weights)
        query = np.array(presented(bundle, {"image": drawing(500)})["embedding"])
        edges = np.cumsum(bundle.context.config.dimensions)[:-1]
        cosines = np.stack(
            [
                ours @ theirs.T / weight
                for ours, theirs, weight in zip(
                    np.split(query, edges), np.split(vectors, edges, axis=1), own, strict=True
                )
            ]
        )
        expected = np.sort(np.array(weights) / sum(weights) @ cosines)[::-1]
        forms = (
            {"files": {"image": drawing(500)}, "data": {"level_weights": ",".join(map(str, weights)), "k": "50"}},
            {"json": {"image": base64.b64encode(drawing(500)).decode(), "level_weights": weights, "k": 50}},
        )
        for body in forms:
            hits = ask(service, "POST", "/v1/search", **body).json()["hits"]
            np.testing.assert_allclose([hit["score"] for hit in hits], expected[:50], atol=1e-5)

    @pytest.mark.parametrize(
        "weights", [[1.0], [1.0] * 16, [-1, 1, 1], [0, 0, 0], [], [1] * 17, ["a"], "1,x,2", 5, "NaN,1,1"]
    )
    def test_invalid_level_weights_are_rejected(self, tree, weights):
        body = {"image": base64.b64encode(drawing(5)).decode(), "level_weights": weights}
        assert "level_weights" in problem(ask(tree[1], "POST", "/v1/search", json=body), 422)["detail"]

    def test_level_weights_need_levels(self, catalogue, bundle):
        service = local_app(catalogue.config, {SEARCH: bundle})
        for body in ({"text": "a"}, {"image": base64.b64encode(drawing(5)).decode()}, {"vector": [1.0] * 32}):
            rejected = problem(ask(service, "POST", "/v1/search", json={**body, "level_weights": [0.5, 0.5]}), 422)
            assert rejected["errors"][0]["field"] == "level_weights"

    def test_batched_queries_keep_their_weights(self, tree):
        """One batch with and without."""
        bundle, _, _ = tree
        config = ServiceConfig(bundle=str(bundle.path), table="-", index="-", runtime="torch")
        server = ModelServer(config, SEARCH, reference_of(bundle))
        plain = {"image": drawing(1)}
        rows = [plain, {**plain, "level_weights": [1, 0, 0]}, plain, {**plain, "level_weights": [0, 0, 1]}]
        found = [
            outcome.unwrap()["embedding"] for outcome in asyncio.run(server.predict_rows(rows, location_of(bundle)))
        ]
        for row, vector in zip(rows, found, strict=True):
            np.testing.assert_allclose(vector, presented(bundle, row)["embedding"], atol=1e-5)
        np.testing.assert_array_equal(found[0], found[2])
        assert not np.allclose(found[1], found[3])


def test_embed_agrees_with_present(catalogue, bundle):
    """The catalogue's vectors are made as answers are."""
    row = {"image": drawing(5)}
    np.testing.assert_allclose(embed(bundle, [row])[0], presented(bundle, row)["embedding"], atol=1e-6)
