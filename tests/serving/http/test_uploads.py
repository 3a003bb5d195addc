"""Strangers' pictures and videos, whole, damaged and of other kinds, are answered, and no process dies of them."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from galleria.media.isolated import decoder_pool
from galleria.serving.config import ServiceConfig
from tests.media.films import film, numbered, solid, sound_only
from tests.media.test_bad_bytes import OTHER_KINDS
from tests.media.test_variants import COLOURED
from tests.media.test_videos import KINDS
from tests.serving.conftest import ask_together, local_app, problem
from tests.soak import rounds

PICTURE, VIDEO = "/v1/classify/mood", "/v1/events/party"
REJECTED = {413: {"too-large"}, 415: {"unsupported-media"}, 422: {"broken-media", "unusable-data"}}
MAX_MEMORY_BYTES = 512_000_000
AT_A_TIME = 16


@pytest.fixture(scope="module")
def service(models):
    paths = {name: str(bundle.path) for name, bundle in models.items()}
    config = ServiceConfig(
        models=paths, runtime="torch", max_concurrent_queries=64, max_concurrent_videos=AT_A_TIME, target_latency_s=60
    )
    return local_app(config, models)


def uploaded(service, path: str, contents: list[bytes]) -> list[int]:
    """Statuses of uploads; each is a result or the problem of the file, and no decoder dies."""
    field = "image" if path == PICTURE else "video"
    kind = "image" if path == PICTURE else "video"
    before = set(decoder_pool().idle(kind))
    statuses = []
    for start in range(0, len(contents), AT_A_TIME):
        posts = [(path, {"files": {field: content}}) for content in contents[start : start + AT_A_TIME]]
        for answer in ask_together(service, posts):
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                named = problem(answer, answer.status_code)["type"].rpartition(":")[2]
                assert named in REJECTED.get(answer.status_code, ()), answer.text
    after = decoder_pool().idle(kind)
    assert set(after) >= before, "decoders died"
    assert all(peak_bytes(pid) < MAX_MEMORY_BYTES for pid in after)
    return statuses


def peak_bytes(pid: int) -> int:
    if not Path("/proc").exists():
        return 0
    status = Path(f"/proc/{pid}/status").read_text()
    return 1000 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def mutated(random, content: bytes) -> bytes:
    """Some bytes changed, and perhaps cut or doubled."""
    mutant = bytearray(content)
    for _ in range(random.randint(1, 8)):
        if mutant:
            mutant[random.randrange(len(mutant))] = random.randrange(256)
    cut = int(random.uniform(0.5, 1) * len(mutant)) if random.random() < 0.3 else len(mutant)
    return bytes(mutant[:cut] + mutant[-50:] * random.randint(0, 1))


def test_pictures_of_any_kind_are_answered(service, pictures):
    """I1: every picture is classified or rejected for what is wrong with it."""
    statuses = uploaded(service, PICTURE, pictures)
    assert {200, 413, 415} <= set(statuses) <= {200, *REJECTED}


def test_mutated_pictures_are_answered(service, pictures):
    """I1: so are pictures with a few wrong bytes."""
    small = [content for content in pictures if len(content) < 1_000_000]
    mutants = [mutated(random, random.choice(small)) for random in rounds(60)]
    statuses = uploaded(service, PICTURE, mutants)
    assert {200, 422} <= set(statuses) <= {200, *REJECTED}


def test_truncated_uploads_are_rejected(service):
    """I4: a cut picture is 422, or the picture itself where only what follows it is missing."""
    whole = {name: COLOURED[name] for name in ("jpeg", "png", "webp", "gif", "tiff", "bmp")}
    expected = result(service, whole)
    for random in rounds(4):
        cut = {name: content[: random.randrange(1, len(content))] for name, content in whole.items()}
        for name, answer in result(service, cut).items():
            assert answer in (422, expected[name])


def result(service, contents: Mapping[str, bytes]) -> dict[str, object]:
    answers = ask_together(service, [(PICTURE, {"files": {"image": content}}) for content in contents.values()])
    return {
        name: answer.json()["result"] if answer.status_code == 200 else answer.status_code
        for name, answer in zip(contents, answers, strict=True)
    }


def odd_videos() -> dict[str, bytes]:
    clip = film(numbered(30))
    return {
        **{kind: film(numbered(30), container=container, codec=codec) for kind, (container, codec) in KINDS.items()},
        "sound": sound_only(),
        "cover": sound_only(cover=True),
        "one frame": film(numbered(1)),
        "short": film([solid((0, 0, 0))] * 2, rate=10),
        "slow": film(numbered(3), rate=1),
        "fast": film(numbered(120), rate=60),
        "flat": film([solid((9, 9, 9), 640, 2)] * 10),
        "header": clip[:40],
        "half": clip[: len(clip) // 2],
        "no end": clip[:-200],
        "trailing": clip + b"PK\x03\x04",
        "empty": b"",
        "picture": COLOURED["png"],
        "playlist": b"#EXTM3U\nfile:///etc/passwd",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "zeros": b"\0\0\0\x20ftypisom" + bytes(4000),
        "noise": os.urandom(4000),
        "text": b"not a video",
    }


def test_odd_videos_are_answered(service):
    """I5: every video has its events, or is rejected for what is wrong with it."""
    videos = odd_videos()
    answers = dict(zip(videos, uploaded(service, VIDEO, list(videos.values())), strict=True))
    for kind in KINDS:
        assert answers[kind] == 200, kind
    for name in ("playlist", "concat", "picture", "text", "sound", "cover"):
        assert answers[name] == 415, name
    for name in ("empty", "header", "zeros"):
        assert answers[name] == 422, name


def test_mutated_videos_are_answered(service):
    """I5: so are videos with a few wrong bytes."""
    videos = sorted(odd_videos().values())
    mutants = [mutated(random, random.choice(videos)) for random in rounds(16)]
    assert set(uploaded(service, VIDEO, mutants)) <= {200, *REJECTED}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_kinds_are_unsupported(service, name):
    """I6: whatever a file is called, its content decides."""
    for suffix, kind in (("jpg", "image/jpeg"), ("png", "image/png")):
        upload = {"files": {"image": (f"picture.{suffix}", OTHER_KINDS[name], kind)}}
        problem(ask_together(service, [(PICTURE, upload)])[0], 415)
