"""Pictures of strangers over real HTTP, on every route that takes one."""

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.conftest import problem
from tests.serving.http.test_endurance import replicas

pytestmark = pytest.mark.ray

CLIENTS = 4


def send(client: httpx.Client, content: bytes) -> list[httpx.Response]:
    """Send a file as a form and as JSON, to be classified, searched by and embedded."""
    text = base64.b64encode(content).decode()
    return [
        client.post("/v1/classify/mood", files={"image": content}),
        client.post("/v1/search", files={"image": content}),
        client.post("/v1/search", json={"image": text}),
        client.post("/v1/embeddings", json={"input": f"data:image/png;base64,{text}"}),
        client.post("/v1/events/party", files={"video": content}),
    ]


def test_every_picture_is_answered_over_http(client, pictures):
    """I1: by a running service, which stays as it was."""
    before = [process.pid for process in replicas(client.base_url.port)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for sent in pool.map(lambda content: send(client, content), pictures) for answer in sent]
    statuses = {answer.status_code for answer in answers}
    assert {200, 413, 415} <= statuses <= {200, 413, 415, 422}
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, answer.status_code)
    assert [process.pid for process in replicas(client.base_url.port)] == before
    assert client.get("/readyz").json() == {"status": "ready", "degraded": []}
