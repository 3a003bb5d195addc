"""Embeddings in the format of OpenAI's API, requested with their own client."""

import base64

import numpy as np
import openai
import pytest

from galleria.serving.config import SEARCH
from tests.drawings import drawing
from tests.serving.conftest import LIMITS, ask, embed, local_app, problem

URI = "data:image/png;base64," + base64.b64encode(drawing(500)).decode()


@pytest.fixture(scope="module")
def app(catalogue):
    return local_app(catalogue.config, {SEARCH: catalogue.bundle})


def vectors(app, **query):
    answer = ask(app, "POST", "/v1/embeddings", json={"model": "search", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_embeddings_keep_input_order(app, catalogue, bundle):
    answer = vectors(app, input=["thing number 7", URI])
    expected = embed(bundle, [{"text": "thing number 7"}])[0], embed(bundle, [{"image": drawing(500)}])[0]
    assert [part["index"] for part in answer["data"]] == [0, 1]
    np.testing.assert_allclose([part["embedding"] for part in answer["data"]], expected, atol=1e-5)
    assert (answer["object"], answer["model"], answer["hash"]) == ("list", "search", catalogue.bundle.hash)
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


def test_base64_equals_floats(app):
    plain = vectors(app, input=URI)["data"][0]["embedding"]
    encoded = vectors(app, input=URI, encoding_format="base64")["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(encoded), "<f4"), plain, atol=1e-6)


def test_truncated_vector_has_unit_length(app):
    whole = np.array(vectors(app, input="thing number 7")["data"][0]["embedding"])
    for width in (8, 16, 32):
        part = np.array(vectors(app, input="thing number 7", dimensions=width)["data"][0]["embedding"])
        np.testing.assert_allclose(part, whole[:width] / np.linalg.norm(whole[:width]), atol=1e-5)
    rejected = problem(ask(app, "POST", "/v1/embeddings", json={"input": "a", "dimensions": 9}), 422)
    assert "is 9: this model has 8, 16, 32" in rejected["detail"]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"input": ""}, 422, "is empty"),
        ({"input": []}, 422, "is empty"),
        ({"input": ["a", " "]}, 422, "is empty"),
        ({"input": [1212, 318]}, 422, "input: holds token ids: send texts (with LangChain"),
        ({"input": [[1212, 318], [9]]}, 422, "input: holds token ids"),
        ({"input": ["a", 9]}, 422, "input: holds token ids"),
        ({"input": {"text": "a"}}, 422, "input: must be a text, a picture as a data URI, or a list of these"),
        ({"input": ["a", None]}, 422, "input: must be a text"),
        ({"input": None}, 422, "input: Field required"),
        ({}, 422, "input: Field required"),
        ({"input": "a", "model": "gpt"}, 404, "no model 'gpt' that embeds"),
        ({"input": "a", "encoding_format": "int8"}, 422, "encoding_format"),
        ({"input": "x" * (LIMITS.text_characters + 1)}, 422, "over the limit of 100"),
        ({"input": ["a"] * (LIMITS.embedding_inputs + 1)}, 422, "over the limit of 2048"),
        ({"input": "data:image/png;base64,!"}, 422, "is not a picture in base64"),
        ({"input": "data:image/png;base64," + base64.b64encode(b"%PDF").decode()}, 415, "not a picture"),
    ],
)
def test_invalid_input_is_rejected(app, query, status, said):
    assert said in problem(ask(app, "POST", "/v1/embeddings", json=query), status)["detail"]


def test_nulls_and_unknown_fields_are_ignored(app):
    plain = vectors(app, input="thing number 7")

    query = {"encoding_format": None, "dimensions": None, "user": None, "model": None, "safety_identifier": "x"}
    assert vectors(app, input="thing number 7", **query) == plain


def test_as_many_inputs_as_at_openai(app):
    answer = vectors(app, input=["thing number 7"] * 2048)

    assert len(answer["data"]) == 2048 and answer["data"][2047]["index"] == 2047


def test_model_is_described_by_id(app):
    described = {"id": "search", "object": "model", "created": 0, "owned_by": "galleria"}
    assert ask(app, "GET", "/v1/models/search").json() == described
    missing = problem(ask(app, "GET", "/v1/models/gpt"), 404)
    assert missing["message"] == missing["detail"]


@pytest.mark.ray
def test_openai_client_works(address, bundle):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="search", input=["thing number 7", URI])
    expected = embed(bundle, [{"text": "thing number 7"}])[0], embed(bundle, [{"image": drawing(500)}])[0]
    np.testing.assert_allclose([part.embedding for part in answer.data], expected, atol=1e-4)
    assert len(client.embeddings.create(model="search", input="a", dimensions=8).data[0].embedding) == 8
    assert "search" in [model.id for model in client.models.list()]
    assert client.models.retrieve("search") == next(model for model in client.models.list() if model.id == "search")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="is empty"):
        client.embeddings.create(model="search", input="")
    client.close()
