"""Large files in JSON reach the model on every route, and are rejected as small ones are."""

import base64
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from galleria.media.limits import Limits
from galleria.serving.http.json_scan import LONG_TEXT
from galleria.serving.http.kserve import HEADER
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.media.test_bad_bytes import chunk
from tests.serving.conftest import FakeModel, ask, fake_app, problem
from tests.serving.http.test_abuse import Discard

PNG = drawing(1)
LARGE = PNG[:-12] + chunk(b"paDd", np.random.default_rng(0).bytes(LONG_TEXT)) + PNG[-12:]
TEXT = base64.b64encode(LARGE).decode()
URI = f"data:image/png;base64,{TEXT}"


class VideoModel(FakeModel):
    async def describe(self, location):
        return replace(await super().describe(location), inputs=("video",))


def tensor(name: str, *data: str):
    return {"inputs": [{"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}]}


REQUESTS = {
    "classify": ("POST", "/v1/classify/mood", {"image": TEXT}, 1),
    "data URI": ("POST", "/v1/classify/mood", {"image": URI}, 1),
    "events": ("POST", "/v1/events/party", {"video": TEXT}, 1),
    "search": ("POST", "/v1/search", {"k": 1, "image": TEXT}, 1),
    "mix": ("POST", "/v1/search", {"mix": [{"image": TEXT}, {"image": TEXT, "weight": 0.5}]}, 2),
    "batch": ("POST", "/v1/search/batch", {"queries": [{"image": TEXT}, {"k": 1, "image": URI}]}, 2),
    "items": ("PUT", "/v1/items", {"items": [{"id": "a", "image": TEXT}, {"id": "b", "image": URI, "title": "B"}]}, 2),
    "embeddings": ("POST", "/v1/embeddings", {"input": ["words", URI, URI]}, 2),
    "one embedding": ("POST", "/v1/embeddings", {"input": URI}, 1),
    "infer": ("POST", "/v2/models/search/infer", tensor("image", TEXT, TEXT), 2),
    "infer video": ("POST", "/v2/models/party/infer", tensor("video", TEXT), 1),
}


@pytest.fixture
def models():
    return {
        "search": FakeModel(Prediction("h1", {"embedding": np.array([1, 0], np.float32)})),
        "mood": FakeModel(Prediction("h1", {}), kind="classify"),
        "party": VideoModel(Prediction("h1", {}), kind="events"),
    }


@pytest.fixture
def app(models):
    others = {name: model for name, model in models.items() if name != "search"}
    return fake_app(models["search"], writer=Discard(), limits=Limits(text_characters=100), **others)


@pytest.mark.parametrize("name", REQUESTS)
def test_large_file_reaches_the_model(app, models, name):
    method, path, body, count = REQUESTS[name]
    answer = ask(app, method, path, json=body)
    assert answer.status_code == 200, answer.text
    assert "rejected" not in answer.text and "problem:" not in answer.text
    rows = [row for model in models.values() for row in model.rows if "text" not in row]
    assert [[*row.values()] for row in rows] == [[LARGE]] * count


def test_large_binary_tensor_reaches_the_model(app, models):
    """It arrives in many pieces, of which only the first has JSON."""
    content = struct.pack("<I", len(LARGE)) + LARGE
    binary = {"parameters": {"binary_data_size": len(content)}}
    named = {"name": "image", "shape": [1], "datatype": "BYTES", **binary}
    head = json.dumps({"inputs": [named]}).encode()
    headers = {"content-type": "application/octet-stream", HEADER: str(len(head))}
    answer = ask(app, "POST", "/v2/models/search/infer", content=head + content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert models["search"].rows == [{"image": LARGE}]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/classify/mood", {"image": TEXT[:-1] + "?"}, 422, "is not base64"),
        ("/v1/classify/mood", {"image": TEXT, "size": 1}, 422, "size"),
        ("/v1/search", {"text": TEXT}, 422, "over the limit of 100"),
        ("/v1/search", {"image": TEXT, "text": "a"}, 422, "exactly one"),
        ("/v1/embeddings", {"input": TEXT}, 422, "over the limit of 100"),
        ("/v1/embeddings", {"input": URI + "?"}, 422, "is not a picture in base64"),
        ("/v2/models/search/infer", tensor("image", TEXT + "?"), 422, "is not base64"),
        ("/v2/models/search/infer", {**tensor("image", TEXT), "inputs": 1}, 422, "inputs"),
    ],
)
def test_large_text_is_rejected_as_a_small_one(app, path, body, status, said):
    assert said in problem(ask(app, "POST", path, json=body), status)["detail"]


@pytest.mark.parametrize("end", ["", "}", '", }', '"} 1', '\xff"}'])
def test_large_text_in_bad_json_is_400(app, end):
    content = f'{{"image": "{TEXT}'.encode() + end.encode("latin-1")
    headers = {"content-type": "application/json"}
    answer = ask(app, "POST", "/v1/search", content=content, headers=headers)
    problem(answer, 422 if "\xff" in end else 400)
