import asyncio
import contextlib
import logging
from collections.abc import Iterator

import numpy as np
import pytest

from galleria import errors
from galleria.errors import CatalogFullError, IndexDamagedError, ReleaseChangedError, StorageError
from galleria.serving.inference.types import Prediction
from galleria.serving.rate_filter import RateFilter
from galleria.serving.schemas.problems import frequent_logger, to_problem_error, unavailable
from tests.serving.conftest import FakeModel, FakeSearcher, ask, ask_together, fake_app, problem

JSON = {"content-type": "application/json"}
FOUND = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})


class Slow(FakeModel):
    """Takes its time."""

    async def predict(self, row, location):
        await asyncio.sleep(0.3)
        return await super().predict(row, location)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UnsupportedMediaError, 415),
        (errors.MediaTooLargeError, 413),
        (errors.BrokenMediaError, 422),
        (errors.SchemaError, 422),
        (errors.DataError, 422),
        (errors.BundleError, 503),
        (errors.IndexDamagedError, 503),
        (ValueError, 500),
    ],
)
def test_error_class_has_its_status(error, status):
    assert to_problem_error(error("because")).status == status


def test_model_error_keeps_its_class():
    app = fake_app(FakeModel(Prediction("h1", error="BrokenMediaError", message="cut short")))
    details = problem(ask(app, "POST", "/v1/search", json={"text": "a"}), 422)
    assert details["type"] == "urn:galleria:problem:broken-media"
    assert details["detail"] == "cut short"


@contextlib.contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """The records that reach the handlers of Serve's logger during a block."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("ray.serve")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("outcome", [Prediction("h1", error="KeyError", message="secret"), RuntimeError("secret")])
def test_unexpected_error_is_logged_not_shown(outcome):
    with logged() as records:
        answer = ask(fake_app(FakeModel(outcome)), "POST", "/v1/search", json={"text": "a"})
    details = problem(answer, 500)
    assert "secret" not in answer.text
    assert any(details["request_id"] in record.getMessage() and record.exc_info for record in records)


def test_list_of_invalid_fields_is_limited():
    app = fake_app(FakeModel(Prediction("h1")))
    answer = ask(app, "POST", "/v1/search", content=b'{"vector": [' + b"NaN," * 999 + b"NaN]}", headers=JSON)
    assert [field["field"] for field in problem(answer, 422)["errors"]] == [f"vector.{index}" for index in range(10)]


def test_unknown_path_and_method():
    app = fake_app(FakeModel(Prediction("h1")))
    assert "/docs" in problem(ask(app, "GET", "/v3"), 404)["detail"]
    answer = ask(app, "PUT", "/v1/search")
    assert "POST" in problem(answer, 405)["detail"]
    assert answer.headers["allow"] == "POST"


def test_query_over_the_limit_is_rejected():
    app = fake_app(Slow(FOUND), max_concurrent_queries=1)
    answers = ask_together(app, [("/v1/search", {"json": {"text": "a"}})] * 2)
    turned_away = next(answer for answer in answers if answer.status_code != 200)
    assert sorted(answer.status_code for answer in answers) == [200, 429]
    assert "1 queries are being answered" in problem(turned_away, 429)["detail"]
    assert turned_away.headers["retry-after"] == "1"


def test_videos_have_their_own_limit():
    app = fake_app(
        FakeModel(FOUND),
        max_concurrent_queries=4,
        max_concurrent_videos=1,
        party=Slow(Prediction("h1", {}), kind="events"),
    )
    sent = [("/v1/events/party", {"files": {"video": b"1"}})] * 3 + [("/v1/search", {"json": {"text": "a"}})]
    *videos, search = [answer.status_code for answer in ask_together(app, sent)]
    assert sorted(videos) == [200, 429, 429]
    assert search == 200


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RuntimeError("/secret/path is gone"), 500, None),
        (OSError("/secret/path is gone"), 503, "1"),
        (FileNotFoundError(2, "No such file", "/secret/path"), 503, "1"),
        (ConnectionResetError("/secret/path"), 503, "1"),
        (StorageError("the table /secret/path cannot be read"), 503, "1"),
        (IndexDamagedError("index /secret/path/idx is damaged"), 503, "1"),
        (CatalogFullError("/secret/path is on a full disk"), 507, None),
        (ReleaseChangedError("release s3://secret/releases/a is not loaded"), 503, "1"),
    ],
)
def test_failing_searcher_is_a_problem(error, status, retry_after):
    """Where storage fails, the request may work later."""

    class Broken(FakeSearcher):
        async def search(self, vector, k, allowed, state, after=None):
            raise error

    answer = ask(fake_app(FakeModel(Prediction("h1")), Broken()), "POST", "/v1/search", json={"vector": [1, 0]})
    problem(answer, status)
    assert answer.headers.get("retry-after") == retry_after
    assert "secret" not in answer.text


@pytest.fixture
def one_second():
    """All of a test happens in one second of the log."""
    [usual], stopped = frequent_logger.filters, RateFilter(lambda: 0.0)
    frequent_logger.removeFilter(usual)
    frequent_logger.addFilter(stopped)
    yield
    frequent_logger.removeFilter(stopped)
    frequent_logger.addFilter(usual)


@pytest.mark.parametrize(
    ("outcome", "status", "level", "count"),
    [
        (unavailable("the model is starting: try again"), 503, logging.WARNING, 1),
        (errors.CatalogFullError("the disk is full"), 507, logging.WARNING, 1),
        (FileNotFoundError(2, "No such file", "/secret/path"), 503, logging.ERROR, 1),
        (RuntimeError("a fault of ours"), 500, logging.ERROR, 30),
    ],
)
def test_overload_does_not_fill_the_log(one_second, outcome, status, level, count):
    """Once for all requests that end in the same way; errors of the service itself are never left out."""
    app = fake_app(FakeModel(outcome), max_concurrent_queries=30)
    with logged() as records:
        for answer in ask_together(app, [("/v1/search", {"json": {"text": "a"}})] * 30):
            problem(answer, status)
    assert [record.levelno for record in records] == [level] * count
    assert all(bool(record.exc_info) == (level == logging.ERROR) for record in records)
