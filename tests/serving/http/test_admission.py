"""Which requests are admitted, by a clock that the test sets."""

from collections import deque
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from galleria.serving.http.admission import INITIAL_LIMIT, MIN_LIMIT, AdaptiveConcurrencyLimit, ConcurrencyLimit
from galleria.serving.schemas.problems import ProblemError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fill(stack: ExitStack, admits: AdaptiveConcurrencyLimit | ConcurrencyLimit) -> int:
    """Return how many more are admitted."""
    count = 0
    while True:
        try:
            stack.enter_context(admits.admit())
        except ProblemError:
            return count
        count += 1


class Outcome(NamedTuple):
    waited: list[float]
    rejected: int


def serve(limit: AdaptiveConcurrencyLimit, clock: Clock, service: float, rate: float, count: int) -> Outcome:
    """What becomes of requests at a steady rate, of a server that answers one after the other, each in so long."""
    waited, rejected, free = [], 0, clock.now
    inside: deque[tuple[float, float, Any]] = deque()  # when it is answered, when it came, its admission
    start = clock.now
    for number in range(count):
        arrival = start + number / rate
        while inside and inside[0][0] <= arrival:
            waited.append(leave(inside, clock))
        clock.now = arrival
        admission = limit.admit()
        try:
            admission.__enter__()
        except ProblemError:
            rejected += 1
        else:
            free = max(free, arrival) + service
            inside.append((free, arrival, admission))
    while inside:
        waited.append(leave(inside, clock))
    return Outcome(waited, rejected)


def leave(inside: deque[tuple[float, float, Any]], clock: Clock) -> float:
    clock.now, arrival, admission = inside.popleft()
    admission.__exit__(None, None, None)
    return clock.now - arrival


def test_limit_admits_up_to_its_capacity():
    admission = ConcurrencyLimit(3, "queries")
    with ExitStack() as stack:
        assert fill(stack, admission) == 3
        with pytest.raises(ProblemError, match="3 queries are being answered: try again") as error:
            stack.enter_context(admission.admit())
    assert (error.value.status, error.value.headers) == (429, {"Retry-After": "1"})
    with ExitStack() as stack:
        assert fill(stack, admission) == 3, "capacity is free again"


def test_failed_request_frees_its_capacity():
    limit = AdaptiveConcurrencyLimit(1, 1.0)
    with pytest.raises(ValueError, match="bad"), limit.admit():
        raise ValueError("bad")
    assert limit.in_flight == 0


def test_load_under_capacity_is_admitted():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, 0.2, clock)
    outcome = serve(limit, clock, service=0.01, rate=50, count=1000)
    assert outcome.rejected == 0
    assert max(outcome.waited) == pytest.approx(0.01)
    assert limit.limit == INITIAL_LIMIT, "a limit that rejects nothing does not grow"


@pytest.mark.parametrize("times", [1.5, 2, 10])
def test_overload_is_rejected_and_latency_kept(times):
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, 0.2, clock)
    serve(limit, clock, service=0.01, rate=50, count=100)
    begun = clock.now
    outcome = serve(limit, clock, service=0.01, rate=100 * times, count=5000)
    assert max(outcome.waited) <= 0.23
    assert min(outcome.waited[-200:]) > 0.15, "no more are rejected than necessary"
    assert len(outcome.waited) / (clock.now - begun) == pytest.approx(100, rel=0.02), "it does what it can"
    assert 17 <= limit.limit <= 22


def test_limit_grows_when_responses_are_fast():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, 0.2, clock)
    serve(limit, clock, service=0.001, rate=2000, count=10_000)
    assert limit.limit == 64


def test_slow_model_still_gets_batches():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, 0.2, clock)
    serve(limit, clock, service=1.0, rate=0.5, count=10)
    outcome = serve(limit, clock, service=1.0, rate=3, count=1000)
    assert max(outcome.waited[300:]) <= 4
    assert 2 < limit.limit < 5


def test_slower_service_is_learnt_under_load():
    clock = Clock()
    limit = AdaptiveConcurrencyLimit(64, 0.2, clock)
    serve(limit, clock, service=0.01, rate=50, count=100)
    outcome = serve(limit, clock, service=0.5, rate=20, count=3000)
    assert limit.limit >= MIN_LIMIT
    assert len(outcome.waited) / (3000 / 20) == pytest.approx(2, rel=0.1)


def test_rejected_body_frees_nothing():
    limit = ConcurrencyLimit(1, "videos")
    limit.check()
    with limit.admit(), pytest.raises(ProblemError, match="1 videos are being answered"):
        limit.check()
    limit.check()
