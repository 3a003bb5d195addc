"""Events of videos, with the gateway and the model in this process."""

import base64

import pytest

from galleria.serving.config import ServiceConfig
from tests.media.films import film, solid, sound_only
from tests.serving.bundles import presented
from tests.serving.conftest import LIMITS, ask, local_app, problem

CLIP = film([solid((200, 60 * second, 30)) for second in range(4) for _ in range(5)], rate=5)


@pytest.fixture(scope="module")
def service(models):
    bundle = models["party"]
    return local_app(ServiceConfig(models={"party": str(bundle.path)}, limits=LIMITS), {"party": bundle})


def events(service, content: bytes):
    return ask(service, "POST", "/v1/events/party", files={"video": ("clip.mp4", content, "video/mp4")})


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_response_equals_bundle(service, models, container):
    clip = film([solid((40 + 2 * index,) * 3) for index in range(30)], container=container)
    expected = presented(models["party"], {"video": clip})
    answer = events(service, clip).json()
    assert answer["model"] == {"name": "party", "family": "video_event", "hash": models["party"].hash, "release": None}
    assert answer["result"] == expected
    encoded = base64.b64encode(clip).decode()
    assert ask(service, "POST", "/v1/events/party", json={"video": encoded}).json()["result"] == expected


def test_response_has_events_and_timeline(service):
    result = events(service, CLIP).json()["result"]
    assert [frame["seconds"] for frame in result["timeline"]] == [0, 1, 2, 3]
    assert sum(frame["attention"] for frame in result["timeline"]) == pytest.approx(1, abs=1e-5)
    assert {event["name"] for event in result["events"]} == {"amber", "blue"}
    assert all(0 <= event["probability"] <= 1 for event in result["events"])
    assert all(frame in result["timeline"] for frame in result["key_frames"])


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"hello, I am text", 415),
        (b"#EXTM3U\nfile:///etc/passwd", 415),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415),
        (sound_only(), 415),
        (CLIP[:40], 422),
        (CLIP[: len(CLIP) // 2], 422),
        (CLIP[:-200], 422),
        (b"\0\0\0\x20ftypisom" + bytes(4000), 422),
        (film([solid((0, 0, 0))] * 2, rate=10), 422),
        (b"x" * LIMITS.video_bytes + b"x" * 70_000, 413),
    ],
    ids=["empty", "text", "playlist", "picture", "sound", "header", "half", "end", "zeros", "short", "large"],
)
def test_unusable_video_is_rejected(service, content, status):
    problem(events(service, content), status)
    problem(ask(service, "POST", "/v1/events/party", json={"video": base64.b64encode(content).decode()}), status)


@pytest.mark.parametrize("body", [{"json": {"video": "/etc/passwd"}}, {"data": {"video": "file:///etc/passwd"}}])
def test_path_is_never_opened(service, body):
    assert problem(ask(service, "POST", "/v1/events/party", **body), 415 if "data" in body else 422)


def test_video_over_the_byte_limit_is_rejected(service):
    """One that fits into the body with the space that is left for other fields."""
    content = CLIP + bytes(LIMITS.video_bytes - len(CLIP) + 10)
    assert "limit of 500,000" in problem(events(service, content), 413)["detail"]
