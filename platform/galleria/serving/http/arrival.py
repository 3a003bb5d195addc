"""Limits on the bodies of requests: how fast they arrive, how many at a time, and their bytes in memory."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from galleria.serving.schemas.problems import ProblemError, too_many_requests

GRACE_S = 5.0
"""Time that a body may be late, where it arrives with less than `MIN_BYTES_PER_S`."""

MIN_BYTES_PER_S = 10_000

MIN_AGE_S = 1.0
"""A body that began to arrive later than this ago is not dropped for another."""

MAX_CLIENT_BODIES = 64
"""Bodies of one client that are arriving."""

MAX_CLIENTS = 2
"""Clients with the largest number of arriving bodies, or bytes, that there is capacity for."""

VALUE_BYTES = 100
"""Memory of a value of JSON once it is built; measured: 16 for a number, 90 for an object."""


@dataclass(eq=False)
class Arrival:
    """A body that is arriving.

    Attributes:
        client: who sends it.
        deadline: when it is given up.
        timeout_s: how long it may take.
        started: time of the event loop.
        received: bytes so far.
        dropped: whether it is given up for another body.
    """

    client: str
    deadline: asyncio.Timeout
    timeout_s: float
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    received: int = 0
    dropped: bool = False

    def __post_init__(self) -> None:
        self.receive(0)

    def receive(self, size: int) -> None:
        """Count bytes, and move the deadline."""
        self.received += size
        if not self.dropped:
            self.deadline.reschedule(self.started + min(self.timeout_s, GRACE_S + self.received / MIN_BYTES_PER_S))

    def rate(self, now: float) -> float:
        """Return its bytes per second."""
        return self.received / (now - self.started)

    def drop(self, now: float) -> None:
        """Give it up for another body."""
        self.dropped = True
        if not self.deadline.expired():
            self.deadline.reschedule(now)

    def problem(self) -> ProblemError:
        """Return the response to a body that was given up."""
        if self.dropped:
            return too_many_requests("too many bodies of this client are arriving, and this was the slowest")
        return ProblemError(
            408,
            "slow-request",
            f"the body took longer than {self.timeout_s:g} s, or arrived with less than {MIN_BYTES_PER_S:,} bytes a "
            "second: send it again",
        )


class ArrivalLimit:
    """Bounds how many bodies are arriving at a time; the slowest one is dropped for one more.

    Args:
        max_bodies: of one client; `MAX_CLIENTS` times as many in all.
    """

    def __init__(self, max_bodies: int = MAX_CLIENT_BODIES) -> None:
        self._max_bodies = max_bodies
        self._arrivals: list[Arrival] = []

    @contextmanager
    def admit(self, client: str, deadline: asyncio.Timeout, timeout_s: float) -> Iterator[Arrival]:
        """Count a body as arriving for as long as a block lasts, within `asyncio.timeout(None) as deadline`.

        Raises:
            ProblemError: 429, too many are arriving, and none is slow.
        """
        counts = Counter(arrival.client for arrival in self._arrivals)
        if counts[client] >= self._max_bodies:
            self._drop_slowest(client)
        elif len(self._arrivals) >= MAX_CLIENTS * self._max_bodies:
            self._drop_slowest(counts.most_common(1)[0][0])
        arrival = Arrival(client, deadline, timeout_s)
        self._arrivals.append(arrival)
        try:
            yield arrival
        finally:
            if arrival in self._arrivals:
                self._arrivals.remove(arrival)

    def _drop_slowest(self, client: str) -> None:
        now = asyncio.get_running_loop().time()
        slow = [each for each in self._arrivals if each.client == client and each.started <= now - MIN_AGE_S]
        if not slow:
            raise too_many_requests(f"{self._max_bodies} bodies are arriving")
        slowest = min(slow, key=lambda arrival: arrival.rate(now))
        self._arrivals.remove(slowest)
        slowest.drop(now)


class MemoryBudget:
    """Bounds the bytes of all bodies that one process holds.

    Args:
        max_bytes: of all clients; one may have half of them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._client_bytes: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str) -> Iterator["HeldBytes"]:
        """Yield a count of one request's bytes, which are free again after the block."""
        held = HeldBytes(self, client)
        try:
            yield held
        finally:
            self._client_bytes[client] -= held.size
            if not self._client_bytes[client]:
                del self._client_bytes[client]

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._client_bytes.total()

    def take(self, client: str, size: int) -> None:
        """Count more bytes of a client.

        Raises:
            ProblemError: 429, there are not as many left; none are counted.
        """
        if self._client_bytes[client] + size > self._max_bytes // MAX_CLIENTS or self.size + size > self._max_bytes:
            raise too_many_requests("the requests that are being answered fill the memory for their bodies")
        self._client_bytes[client] += size


@dataclass(eq=False)
class HeldBytes:
    """Bytes that one request holds of a budget."""

    budget: MemoryBudget
    client: str
    size: int = 0

    def take(self, size: int) -> None:
        """Count more bytes. Raises as `MemoryBudget.take`."""
        self.budget.take(self.client, size)
        self.size += size
