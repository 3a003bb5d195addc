"""A main version and a canary, and the fraction of the requests that the canary gets."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class TrafficSplit(Generic[T]):
    """Two versions of a model that share its requests.

    Attributes:
        main: gets the requests that the canary does not get.
        canary: the version that is tried out, if there is one.
        canary_weight: fraction of the requests that the canary gets.
    """

    main: T
    canary: T | None = None
    canary_weight: float = 0.0

    @property
    def all(self) -> tuple[T, ...]:
        """Return every version that gets requests, the main one first."""
        return (self.main,) if self.canary is None else (self.main, self.canary)

    def pick(self, session: str = "") -> T:
        """Return the version for one request by weight: the same for all requests of a session, else at random."""
        if self.canary is None:
            return self.main
        return self.canary if (_fraction(session) if session else random.random()) < self.canary_weight else self.main

    def map(self, function: Callable[[T], U]) -> "TrafficSplit[U]":
        """Return the same split over what a function makes of each version."""
        canary = None if self.canary is None else function(self.canary)
        return TrafficSplit(function(self.main), canary, self.canary_weight)


def _fraction(session: str) -> float:
    """Return a number from 0 to 1 (excluded), the same in every process."""
    digest = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48
