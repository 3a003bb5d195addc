"""A client that openapi-python-client generates from the document works against the running service."""

import base64
import importlib
import io
import json
import os
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from galleria.serving.http.keys import read_keys
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving.conftest import LIMITS, FakeModel, ask, fake_app
from tests.serving.served import served

GENERATOR = Path(sys.prefix, "client-generator")
"""Where `make setup` installs the generator, whose dependencies have other versions than the service's."""

APP = fake_app(FakeModel(Prediction("h1", {})))
DOCUMENT = ask(APP, "GET", "/openapi.json").json()
OPERATIONS = [
    (operation["tags"][0], operation["operationId"], operation["responses"])
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The generated package: an operation by its name, and `models`, `types` and the clients."""
    folder = tmp_path_factory.mktemp("client")
    document, config = folder / "openapi.json", folder / "config.json"
    document.write_text(json.dumps(DOCUMENT))
    config.write_text('{"post_hooks": [], "content_type_overrides": {"image/*": "application/octet-stream"}}')
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    options = ["--path", document, "--config", config, "--output-path", folder / "generated_galleria"]
    environment = {**os.environ, "PYTHONPATH": str(GENERATOR)}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    names = {name: importlib.import_module(f"generated_galleria.{name}") for name in ("client", "models", "types")}
    for tag, name, _ in OPERATIONS:
        names[name] = importlib.import_module(f"generated_galleria.api.{tag}.{name}")
    yield SimpleNamespace(**names)
    sys.path.remove(str(folder))


@pytest.fixture
def client(address, generated):
    with generated.client.Client(address, httpx_args={"trust_env": False}, timeout=60) as opened:
        yield opened


@pytest.mark.parametrize(("tag", "name", "responses"), OPERATIONS, ids=[name for _, name, _ in OPERATIONS])
def test_declared_error_is_read(generated, tag, name, responses):
    declared = {int(status) for status in responses if int(status) >= 400}
    needs_key = DOCUMENT["security"] if name not in ("livez", "readyz", "server_live", "server_ready") else []
    assert not needs_key or {401, 403, 429} <= declared
    for status in declared:
        problem = {"type": "t", "title": "T", "status": status, "detail": "d", "request_id": "1", "errors": []}
        client = generated.client.Client("http://localhost", raise_on_unexpected_status=True)
        response = getattr(generated, name)._build_response(
            client=client, response=httpx.Response(status, json=problem)
        )
        assert isinstance(response.parsed, generated.models.Problem)
        assert response.parsed.detail == "d"


@pytest.mark.ray
def test_generated_client_puts_and_searches(generated, client):
    models, picture = generated.models, drawing(777)
    item = models.ItemInput(id="generated", image=base64.b64encode(picture).decode(), title="A drawing")
    written = generated.put_items.sync(client=client, body=models.PutItemsRequest(items=[item]))
    assert [each.status for each in written.items] == [models.ItemResultStatus.CREATED]
    file = generated.types.File(io.BytesIO(picture), "a.png", "image/png")
    form = models.SearchFilesBody(image=file, k=1, min_version=written.version)
    in_json = models.SearchRequest(image=item.image, k=1, min_version=written.version)
    for body in (form, in_json):
        found = generated.search.sync(client=client, body=body)
        assert [(hit.id, hit.item.title) for hit in found.hits] == [("generated", "A drawing")]
    batch = models.BatchSearchRequest(queries=[in_json, models.SearchRequest(text=" ")])
    outcomes = generated.search_batch.sync(client=client, body=batch).outcomes
    assert [outcome.status for outcome in outcomes] == [200, 422]
    assert generated.get_item_image.sync(item_id="generated", client=client).payload.read() == picture
    deleted = generated.delete_item.sync(item_id="generated", client=client)
    assert [each.status for each in deleted.items] == [models.ItemResultStatus.DELETED]


@pytest.mark.ray
def test_generated_client_infers(generated, client):
    models = generated.models
    tensor = models.Tensor(name="text", shape=[1], datatype="BYTES", data=["a thing"])
    response = generated.infer.sync("search", client=client, body=models.InferRequest(inputs=[tensor]))
    (vector,) = [output for output in response.outputs if output.name == "embedding"]
    assert (vector.shape, len(vector.data)) == ([1, 32], 32)
    embedded = generated.create_embeddings.sync(client=client, body=models.EmbeddingsRequest(input_="a thing"))
    assert embedded.data[0].embedding == pytest.approx(vector.data, abs=1e-4)
    assert generated.get_model.sync("search", client=client).id == "search"
    metadata = generated.model_metadata.sync("search", client=client)
    assert generated.version_ready.sync_detailed("search", metadata.versions[0], client=client).status_code == 200


@pytest.mark.ray
def test_generated_client_reads_errors(generated, client):
    models = generated.models

    def search(**query):
        return generated.search.sync_detailed(client=client, body=models.SearchRequest(**query))

    def encoded(content):
        return base64.b64encode(content).decode()

    for response, status in (
        (search(text=""), 422),
        (search(image=encoded(b"%PDF-1.7")), 415),
        (search(image=encoded(bytes(LIMITS.image_bytes + 1))), 413),
        (search(item="none"), 422),
        (generated.get_item_image.sync_detailed("bare", client=client), 404),
        (generated.get_model.sync_detailed("none", client=client), 404),
        (generated.infer.sync_detailed("none", client=client, body=models.InferRequest(inputs=[])), 404),
    ):
        assert response.status_code == status
        assert response.parsed.title == HTTPStatus(status).phrase
        assert response.parsed.request_id == response.headers["x-request-id"]


def test_generated_client_sends_a_key(generated):
    app = fake_app(FakeModel(Prediction("h1", {})), keys=read_keys("", {"GALLERIA_READ_KEY": "r"}))
    with served(app) as address:
        for key, status in (("r", 200), ("wrong", 401)):
            with generated.client.AuthenticatedClient(address, key, httpx_args={"trust_env": False}) as client:
                response = generated.get_limits.sync_detailed(client=client)
                assert response.status_code == status
                assert type(response.parsed).__name__ == ("Limits" if status == 200 else "Problem")
                body = generated.models.PutItemsRequest(items=[])
                written = generated.put_items.sync_detailed(client=client, body=body)
                assert written.status_code == (403 if status == 200 else 401)
                assert isinstance(written.parsed, generated.models.Problem)


def test_document_has_no_copies():
    text = json.dumps(DOCUMENT)
    assert "$defs" not in text
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"key", "cookie"}
    assert DOCUMENT["security"] == [{"key": []}, {"cookie": []}]
    assert DOCUMENT["paths"]["/livez"]["get"]["security"] == []
    for name in ("SearchRequest", "ItemInput", "Problem", "InferRequest"):
        assert text.count(json.dumps(DOCUMENT["components"]["schemas"][name]["description"])) == 1
    picture = DOCUMENT["components"]["schemas"]["ItemInput"]["properties"]["image"]["anyOf"][0]
    assert picture == {"type": "string", "contentEncoding": "base64"}
    bodies = DOCUMENT["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    form = bodies["multipart/form-data"]["schema"]["properties"]
    assert not {"mix", "vector"} & set(form)
    assert form["image"]["format"] == "binary"
    assert "null" not in json.dumps(form)
    assert "requestBody" in DOCUMENT["paths"]["/v2/models/{model}/infer"]["post"]


def test_operation_ids_are_unique():
    names = [name for _, name, _ in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
