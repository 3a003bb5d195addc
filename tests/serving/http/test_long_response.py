"""Large responses are built outside of the event loop, and equal those that FastAPI builds."""

import asyncio
import base64
import json
import threading

import numpy as np
import pytest
from pydantic import BaseModel

from galleria.serving.config import ServiceConfig
from galleria.serving.http.body import BodyReader
from galleria.serving.http.long_response import LONG_LIST, respond
from galleria.serving.inference.types import Description, Prediction
from tests.serving.conftest import LIMITS, FakeModel, FakeSearcher, ask, fake_app

VECTOR = np.random.default_rng(0).normal(size=300).astype("f4")
COUNT = LIMITS.batch_items


class Element(BaseModel):
    text: str


class Outline(BaseModel):
    kind: str = '"elements":[]'
    elements: list[Element]
    after: list[int] = []


class Wide(FakeModel):
    """Embeds in 300 dimensions."""

    def __init__(self):
        super().__init__(Prediction("h1", {"embedding": VECTOR}))

    async def describe(self, location):
        return Description("search", "fake", "h1", ("text",), {}, 300)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_response_equals_model(count):
    elements = [Element(text=f'"{number}",[]') for number in range(count)]
    bodies = BodyReader(ServiceConfig(models={"mood": "bundle"}))
    response = asyncio.run(respond(bodies, Outline(elements=[]), "elements", iter(elements)))
    assert response.body == Outline(elements=elements).model_dump_json().encode()
    assert response.headers["content-type"] == "application/json"


def test_elements_are_built_in_a_thread():
    names = set()

    def elements():
        for _ in range(3):
            names.add(threading.current_thread().name)
            yield Element(text="a")

    bodies = BodyReader(ServiceConfig(models={"mood": "bundle"}))
    asyncio.run(respond(bodies, Outline(elements=[]), "elements", elements()))
    assert names == {"body_0"}


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_many_embeddings_are_complete(encoding):
    sent = {"input": ["a"] * COUNT, "encoding_format": encoding}
    answer = ask(fake_app(Wide()), "POST", "/v1/embeddings", json=sent).json()
    assert [part["index"] for part in answer["data"]] == list(range(COUNT))
    assert (answer["object"], answer["model"], answer["hash"]) == ("list", "search", "h1")
    last = answer["data"][-1]["embedding"]
    vector = last if encoding == "float" else np.frombuffer(base64.b64decode(last), "<f4")
    np.testing.assert_allclose(vector, VECTOR / np.linalg.norm(VECTOR), atol=1e-6)


def test_many_tensors_are_complete():
    tensor = {"name": "text", "shape": [COUNT], "datatype": "BYTES", "data": ["a"] * COUNT}
    answer = ask(fake_app(Wide()), "POST", "/v2/models/search/infer", json={"id": '"outputs": []', "inputs": [tensor]})
    embedding, result = answer.json()["outputs"]
    assert (answer.json()["id"], embedding["shape"], result["shape"]) == ('"outputs": []', [COUNT, 300], [COUNT])
    np.testing.assert_array_equal(np.array(embedding["data"], "f4"), np.tile(VECTOR, COUNT))
    assert result["data"] == ["{}"] * COUNT


class Many(FakeSearcher):
    """A catalogue of many items that are equally near."""

    vectors = np.tile(np.eye(2, dtype=np.float32)[0], (2 * LONG_LIST, 1))
    rows = tuple({**FakeSearcher.rows[0], "id": f"item-{number}"} for number in range(2 * LONG_LIST))


def test_long_and_short_pages_have_one_form():
    app = fake_app(FakeModel(Prediction("h1", {})), Many())
    pages = [ask(app, "POST", "/v1/search", json={"vector": [1, 0], "k": k}).json() for k in (LONG_LIST - 1, LONG_LIST)]
    short, long = pages
    assert [len(page["hits"]) for page in pages] == [LONG_LIST - 1, LONG_LIST]
    assert long["hits"][: LONG_LIST - 1] == short["hits"]
    assert list(long) == list(short)


def test_reference_still_describes_responses():
    paths = fake_app(Wide()).openapi()["paths"]
    for path in ("/v1/search", "/v1/search/batch", "/v1/embeddings"):
        schema = paths[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith("Response"), json.dumps(schema)
