"""Limits on the requests in flight: more are rejected at once with 429, so that the others are answered in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from galleria.serving.config import ServiceConfig
from galleria.serving.schemas.problems import too_many_requests

INITIAL_LIMIT = 16
"""Requests in flight that an adaptive limit admits before it has measured their latency."""

MIN_LIMIT = 2
"""Requests in flight that an adaptive limit always admits, however slow they are."""

SLOW_FACTOR = 3
"""A request counts as slow only if it takes this many times as long as one that was alone."""


class ConcurrencyLimit:
    """Admits a fixed number of requests at a time.

    Args:
        limit: requests in flight.
        what: their name in the message of a rejection, in the plural.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._in_flight = 0

    def check(self) -> None:
        """Reject a request whose body has not been read yet while no slot is free.

        Raises:
            ProblemError: 429, no slot is free.
        """
        if self._in_flight >= self._limit:
            raise too_many_requests(f"{self._limit} {self._what} are being answered")

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a slot for as long as a block lasts; for a request whose body has arrived.

        Raises:
            ProblemError: 429, no slot is free.
        """
        self.check()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1


class AdaptiveConcurrencyLimit:
    """Admits fewer requests at a time while responses are slow, and more while they are fast.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): requests beyond the limit are rejected at once
    instead of waiting in a queue that slows all of them down.

    Args:
        max_limit: upper bound of `limit`.
        target_latency_s: a slower response lowers the limit, unless even a request that is alone takes a third of it.
        clock: returns seconds.

    Attributes:
        in_flight: requests in flight.
        limit: requests in flight that are admitted now.
    """

    def __init__(self, max_limit: int, target_latency_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.in_flight = 0
        self.limit = float(min(INITIAL_LIMIT, max_limit))
        self._max_limit = max_limit
        self._target_latency_s = target_latency_s
        self._clock = clock
        self._latency_alone_s = 0.0
        self._lowered_at = -math.inf

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a slot for as long as a block lasts; its duration is the request's latency.

        Raises:
            ProblemError: 429, no slot is free.
        """
        if self.in_flight >= int(self.limit):
            raise too_many_requests(
                f"{self.in_flight} requests like this are being answered, and more would make all of them slow"
            )
        started, others = self._clock(), self.in_flight
        succeeded = False
        self.in_flight += 1
        try:
            yield
            succeeded = True
        finally:
            self.in_flight -= 1
            self._adapt(started, others, succeeded)

    def _adapt(self, started: float, others: int, succeeded: bool) -> None:
        latency_s = self._clock() - started
        # A request that failed or whose client disconnected counts as slow too, if it was.
        if latency_s > max(self._target_latency_s, SLOW_FACTOR * self._latency_alone_s):
            if started >= self._lowered_at:  # requests admitted before that were not subject to the lower limit
                self.limit = max(MIN_LIMIT, self.limit * 0.9)
                self._lowered_at = self._clock()
        elif succeeded and (self.in_flight + 1) * 2 >= self.limit:  # else the limit is not what holds requests back
            self.limit = min(self._max_limit, self.limit + 1 / self.limit)
        if succeeded and others < MIN_LIMIT:
            alone_s = self._latency_alone_s
            self._latency_alone_s = latency_s if latency_s < alone_s or not alone_s else 0.9 * alone_s + 0.1 * latency_s


class AdmissionLimits:
    """The limits of one gateway.

    Args:
        config: their sizes.
        observe: called with the name and the adaptive limit of each model that gets one.

    Attributes:
        queries: searches, pictures, embeddings and inference requests.
        writes: requests that write.
        videos: requests with a video.
    """

    def __init__(self, config: ServiceConfig, observe: Callable[[str, AdaptiveConcurrencyLimit], None]) -> None:
        self.queries = ConcurrencyLimit(config.max_concurrent_queries, "queries")
        self.writes = ConcurrencyLimit(config.max_concurrent_writes, "writes")
        self.videos = ConcurrencyLimit(config.max_concurrent_videos, "videos")
        self._config = config
        self._observe = observe
        self._models: dict[str, AdaptiveConcurrencyLimit] = {}

    def model(self, name: str) -> AdaptiveConcurrencyLimit:
        """Return the adaptive limit of a model; it begins with the model's first request."""
        if name not in self._models:
            limit = AdaptiveConcurrencyLimit(self._config.max_concurrent_queries, self._config.target_latency_s)
            self._observe(name, limit)
            self._models[name] = limit
        return self._models[name]
