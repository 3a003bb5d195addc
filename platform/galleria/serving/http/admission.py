"""Turns requests away beyond a number, so that those within it are answered in time and in memory."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from galleria.serving.schemas.problems import too_many_requests

INITIAL_LIMIT = 16
"""Requests that a pace lets in at a time before it has seen how long they take."""

MIN_LIMIT = 2
"""Requests that a pace lets in at a time, however slow they are."""

SLOW_FACTOR = 3
"""Times what an answer takes without others: slower ones are slow, where even that takes long."""


class Admission:
    """Lets `most` requests in at a time.

    Args:
        most: how many.
        what: what they are called in the message to one that is turned away.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """A place for as long as a block lasts.

        Raises:
            ProblemError: 429, there is none.
        """
        if self._inside >= self._most:
            raise too_many_requests(f"{self._most} {self._what} are being answered")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class AdaptiveConcurrencyLimit:
    """Lets fewer requests in at a time where answers take long, and more where they do not.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): a queue that only makes everybody wait is not
    built up, since who comes too many is told so at once.

    Args:
        most: requests at a time, at the most.
        seconds: an answer that takes longer is slow, unless it takes a third of that without others beside it.
        clock: seconds.

    Attributes:
        inside: requests at this moment.
        limit: requests that are let in now.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.inside = 0
        self.limit = float(min(INITIAL_LIMIT, most))
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._alone = 0.0
        self._lowered = -math.inf

    @contextmanager
    def enter(self, counts: bool = True) -> Iterator[None]:
        """A place for as long as a block lasts, which is the time that an answer takes.

        Args:
            counts: whether that time says how busy the service is.

        Raises:
            ProblemError: 429, there is none.
        """
        if self.inside >= int(self.limit):
            raise too_many_requests(
                f"{self.inside} requests like this are being answered, and more would make all of them slow"
            )
        begun, others = self._clock(), self.inside
        answered = False
        self.inside += 1
        try:
            yield
            answered = True
        finally:
            self.inside -= 1
            if counts:
                self._learn(begun, others, answered)

    def _learn(self, begun: float, others: int, answered: bool) -> None:
        taken = self._clock() - begun
        if taken > max(self._seconds, SLOW_FACTOR * self._alone):  # also where it failed, or the client went away
            if begun >= self._lowered:  # those that were let in before know nothing of the lower limit
                self.limit = max(MIN_LIMIT, self.limit * 0.9)
                self._lowered = self._clock()
        elif answered and (self.inside + 1) * 2 >= self.limit:  # else it is not the limit that kept others out
            self.limit = min(self._most, self.limit + 1 / self.limit)
        if answered and others < MIN_LIMIT:
            self._alone = taken if taken < self._alone or not self._alone else 0.9 * self._alone + 0.1 * taken
