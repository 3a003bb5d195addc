"""The service decodes uploads in child processes: one that is killed costs the request whose upload it decodes."""

import os
import signal
import threading
import time

import pytest

from galleria.media.isolated import decoder_pool
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.inference.server import ModelServer
from tests.drawings import drawing
from tests.media.films import film, solid
from tests.serving.conftest import LIMITS, ask, local_app, problem, reference_of

CLIP = film([solid((200, 60 * second, 30)) for second in range(4) for _ in range(5)], rate=5)
UPLOADS = {
    "image": ("mood", "/v1/classify/mood", {"files": {"image": drawing(1)}}),
    "video": ("party", "/v1/events/party", {"files": {"video": ("clip.mp4", CLIP, "video/mp4")}}),
}


@pytest.fixture(scope="module")
def service(models):
    paths = {name: str(bundle.path) for name, bundle in models.items()}
    return local_app(ServiceConfig(models=paths, limits=LIMITS, runtime="torch"), models)


@pytest.mark.parametrize("kind", UPLOADS)
def test_killed_decoder_costs_one_request(service, kind):
    """S6: the request in its hands is answered with 422, and all others as before."""
    _, path, upload = UPLOADS[kind]
    expected = ask(service, "POST", path, **upload).json()["result"]
    for pid in (idle := decoder_pool().idle(kind)):
        os.kill(pid, signal.SIGSTOP)  # so that it is killed in the middle
    answers = []
    request = threading.Thread(target=lambda: answers.append(ask(service, "POST", path, **upload)))
    request.start()
    while len(decoder_pool().idle(kind)) == len(idle):
        time.sleep(0.01)
    [busy] = set(idle) - set(decoder_pool().idle(kind))
    os.kill(busy, signal.SIGKILL)
    request.join()
    for pid in set(idle) - {busy}:
        os.kill(pid, signal.SIGCONT)

    assert f"the {kind} cannot be decoded" in problem(answers[0], 422)["detail"]
    assert ask(service, "POST", path, **upload).json()["result"] == expected


def test_every_upload_is_decoded_in_a_child(service):
    """None of them in this process: with all children stopped, none is answered."""
    for kind, (_, path, upload) in UPLOADS.items():
        for pid in (idle := decoder_pool().idle(kind)):
            os.kill(pid, signal.SIGSTOP)
        assert idle
        answered = threading.Event()
        request = threading.Thread(target=lambda: (ask(service, "POST", path, **upload), answered.set()))  # noqa: B023
        request.start()
        while len(decoder_pool().idle(kind)) == len(idle):
            assert not answered.is_set()
        for pid in idle:
            os.kill(pid, signal.SIGCONT)
        request.join()


def test_children_start_with_the_model(models, catalogue):
    ModelServer(catalogue.config.model_copy(update={"threads": 3}), SEARCH, reference_of(catalogue.bundle))
    assert len(decoder_pool().idle("image")) >= 3
