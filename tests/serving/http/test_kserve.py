"""KServe's protocol: in JSON, in binary, and with Triton's own client."""

import base64
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from galleria.serving.config import SEARCH
from galleria.serving.inference.types import Prediction
from tests.drawings import drawing
from tests.serving.bundles import assert_near, presented
from tests.serving.conftest import FakeModel, ask, embed, fake_app, local_app, problem

HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def app(catalogue):
    return local_app(catalogue.config, {SEARCH: catalogue.bundle})


def texts(*data, **more):
    return {"inputs": [{"name": "text", "shape": [len(data)], "datatype": "BYTES", "data": list(data)}], **more}


def test_metadata_lists_inputs_and_outputs(app, catalogue):
    metadata = ask(app, "GET", "/v2/models/search").json()
    assert metadata["versions"] == [catalogue.bundle.hash]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "text"]
    assert metadata["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 32]}
    assert ask(app, "GET", "/v2/models/search/ready").json() == {"ready": True}
    assert ask(app, "GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    missing = ask(app, "GET", "/v2/models/none")
    assert problem(missing, 404)["error"] == missing.json()["detail"]


def test_version_is_a_hash_in_use(app, catalogue):
    path = f"/v2/models/search/versions/{catalogue.bundle.hash}"
    assert ask(app, "GET", path).json() == ask(app, "GET", "/v2/models/search").json()
    assert ask(app, "GET", f"{path}/ready").json() == {"ready": True}
    by_version = ask(app, "POST", f"{path}/infer", json=texts("thing")).json()
    assert by_version == ask(app, "POST", "/v2/models/search/infer", json=texts("thing")).json()
    for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        missing = problem(ask(app, method, f"/v2/models/search/versions/1{end}", json=texts("thing")), 404)
        assert missing["error"] == f"model 'search' has no version '1': this service runs {catalogue.bundle.hash}"
        problem(ask(app, method, f"/v2/models/none/versions/1{end}", json=texts("thing")), 404)


def test_json_tensors_equal_the_models_output(app, catalogue, bundle):
    answer = ask(app, "POST", "/v2/models/search/infer", json=texts("thing number 7", "thing", id="mine")).json()
    expected = embed(bundle, [{"text": "thing number 7"}, {"text": "thing"}])
    found = {output["name"]: output for output in answer["outputs"]}
    np.testing.assert_allclose(np.reshape(found["embedding"]["data"], (2, 32)), expected, atol=1e-5)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "search", catalogue.bundle.hash)
    picture = base64.b64encode(drawing(5)).decode()
    query = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [picture]}]}
    outputs = [{"name": "embedding"}]
    answer = ask(app, "POST", "/v2/models/search/infer", json={**query, "outputs": outputs}).json()
    np.testing.assert_allclose([answer["outputs"][0]["data"]], embed(bundle, [{"image": drawing(5)}]), atol=1e-5)
    assert len(answer["outputs"]) == 1


def test_binary_tensors_follow_the_json(app, bundle):
    element = struct.pack("<I", len(drawing(5))) + drawing(5)
    parameters = {"binary_data_size": len(element)}
    head = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": parameters}]}
    head["parameters"] = {"binary_data_output": True}
    encoded = json.dumps(head).encode()
    answer = ask(app, "POST", "/v2/models/search/infer", content=encoded + element, headers={HEADER: str(len(encoded))})
    length = int(answer.headers[HEADER])
    response, binary = json.loads(answer.content[:length]), answer.content[length:]
    assert sum(output["parameters"]["binary_data_size"] for output in response["outputs"]) == len(binary)
    np.testing.assert_allclose(np.frombuffer(binary[:128], "<f4"), embed(bundle, [{"image": drawing(5)}])[0], atol=1e-5)


def tensor(**changes):
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]} | changes]}


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({}, 422, "inputs: Field required"),
        ({"inputs": []}, 422, "inputs"),
        (tensor(datatype="FP32"), 422, "send BYTES"),
        (tensor(shape=[2]), 422, "shape [2] and 1 elements"),
        (tensor(shape=[-1]), 422, "shape [-1]"),
        (tensor(data=[1]), 422, "are texts"),
        (tensor(data=[], shape=[0]), 422, "0 elements"),
        (tensor(name="image"), 422, "not base64"),
        (tensor(name="sound", data=["AAAA"]), 422, "this model reads image or text"),
        (tensor(data=None), 422, "binary_data_size is None"),
        (tensor(data=["a"] * 1001, shape=[1001]), 422, "over the limit of 1000"),
        ({**tensor(), "outputs": [{"name": "mask"}]}, 422, "this model has embedding and result"),
    ],
)
def test_invalid_tensor_is_rejected(app, query, status, said):
    answer = ask(app, "POST", "/v2/models/search/infer", json=query)
    assert said in problem(answer, status)["detail"]
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("length", ["x", "-1", "100000"])
def test_wrong_header_length_is_rejected(app, length):
    answer = ask(app, "POST", "/v2/models/search/infer", content=b"{}", headers={HEADER: length})
    assert "the body has 2 bytes" in problem(answer, 400)["detail"]


@pytest.mark.parametrize("binary", [b"\1", b"\5\0\0\0abc", b"\1\0\0\0ab"])
def test_truncated_element_is_rejected(app, binary):
    parameters = {"binary_data_size": len(binary)}
    head = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": parameters}]})
    headers = {HEADER: str(len(head))}
    answer = ask(app, "POST", "/v2/models/search/infer", content=head.encode() + binary, headers=headers)
    assert "ends inside an element" in problem(answer, 422)["detail"]


def test_health_includes_models():
    assert ask(fake_app(FakeModel(Prediction("h1", {}))), "GET", "/v2/health/ready").json() == {"ready": True}
    broken = fake_app(FakeModel(RuntimeError("gone")))
    assert ask(broken, "GET", "/v2/health/live").json() == {"live": True}
    problem(ask(broken, "GET", "/v2/health/ready"), 500)


TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException
client, version = triton.InferenceServerClient(sys.argv[1]), sys.argv[2]
picture = sys.stdin.buffer.read()
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mood")
assert client.get_server_metadata()["name"] == "galleria"
image = triton.InferInput("image", [2], "BYTES")
image.set_data_from_numpy(np.array([picture, picture], dtype=np.object_))
found = client.infer("mood", [image], outputs=[triton.InferRequestedOutput("result")]).as_numpy("result")
print(found[1].decode())
vectors = client.infer("search", [image], model_version=version).as_numpy("embedding")
assert client.get_model_metadata("search", version)["versions"] == [version]
assert client.is_model_ready("search", version)
assert not client.is_model_ready("search", "1")
print(json.dumps([list(vectors.shape), vectors[0].tolist()]))
try:
    client.infer("none", [image])
except InferenceServerException as error:
    print(error.message())
"""


@pytest.mark.ray
def test_triton_client_works(address, models, bundle):
    command = [sys.executable, "-c", TRITON, address.removeprefix("http://"), bundle.hash]
    done = subprocess.run(command, input=drawing(5), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    result, vector, error = done.stdout.decode().splitlines()
    assert_near(json.loads(result), presented(models["mood"], {"image": drawing(5)}))
    shape, first = json.loads(vector)
    assert shape == [2, 32]
    np.testing.assert_allclose(first, embed(bundle, [{"image": drawing(5)}])[0], atol=1e-4)
    assert "there is no model 'none'" in error
