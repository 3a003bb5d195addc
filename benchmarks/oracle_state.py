"""What `benchmarks.oracle` knows of a catalogue from the responses of its service alone."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_EXAMPLES = 10
"""Violations of each kind that are printed."""

SCORE_TOLERANCE = 1e-4


@dataclass
class KeyHistory:
    """The writes of one item, by one writer at a time.

    Attributes:
        acknowledged: number of the last write that was acknowledged, and whether it was a deletion.
        versions: of the writes that were acknowledged: version, number, whether it was a deletion.
        uncertain: numbers of later writes without a response, and whether each is a deletion: they may hold or not.
        last: number of the last write that was sent.
    """

    acknowledged: tuple[int, bool] = (0, True)
    versions: list[tuple[int, int, bool]] = field(default_factory=list)
    uncertain: dict[int, bool] = field(default_factory=dict)
    last: int = 0

    def allows(self, number: int | None) -> bool:
        """Return whether the item may have the fields of a write now, or be absent (None)."""
        states = [self.acknowledged, *self.uncertain.items()]
        return any(number == (None if deleted else state) for state, deleted in states)

    def allows_at(self, number: int, version: int) -> bool:
        """Return whether a response from a version of the catalogue may show the fields of a write."""
        before = [(state, deleted) for seen, state, deleted in [*self.versions] if seen <= version]
        state, deleted = before[-1] if before else (0, True)
        return state < number <= self.last or (number == state and not deleted)


class Oracle:
    """Histories of all items that are written, and the violations that clients found.

    Attributes:
        counts: requests by what they were, and how they ended.
        violations: by kind: "lost", "stale", "phantom", "deleted", "wrong", "pages".
        newest: highest version of an acknowledged write.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._lock = threading.Lock()
        self.histories: dict[str, KeyHistory] = {}
        self.counts: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []
        self.newest = 1

    def vector(self, item_id: str, number: int) -> NDArray[np.float32]:
        """Return the unit vector of a write."""
        drawn = np.random.default_rng(list(f"{item_id} {number}".encode())).standard_normal(self._dimension)
        unit: NDArray[np.float32] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
        return unit

    def count(self, what: str) -> None:
        """Count a request."""
        with self._lock:
            self.counts[what] += 1

    def violate(self, kind: str, example: str) -> None:
        """Record that the service broke a promise."""
        with self._lock:
            self.violations[kind] += 1
            if self.violations[kind] <= MAX_EXAMPLES:
                self.examples.append(f"{kind}: {example}")

    def acknowledge(self, item_id: str, number: int, deleted: bool, version: int) -> None:
        """Record that a write was acknowledged."""
        history = self.histories[item_id]
        history.acknowledged = number, deleted
        history.versions.append((version, number, deleted))
        with self._lock:
            self.newest = max(self.newest, version)

    def check_item(self, item_id: str, status: int, response: Mapping[str, Any]) -> None:
        """Check the response to a request for an item, after its writes."""
        history = self.histories[item_id]
        number = _number(response["item"]["title"]) if status == 200 else None
        if not history.allows(number):
            kind = "lost" if number is None or number < history.acknowledged[0] else "deleted"
            self.violate(
                kind if number is None or number <= history.last else "phantom", f"{item_id} {number} {history}"
            )

    def check_hits(self, hits: Sequence[Mapping[str, Any]], query: NDArray[np.float32], version: int) -> None:
        """Check the hits of a search of all items at a version of the catalogue."""
        ids = [hit["id"] for hit in hits]
        scores = [hit["score"] for hit in hits]
        if len(set(ids)) < len(ids) or scores != sorted(scores, reverse=True):
            self.violate("wrong", f"hits repeat or are not in order: {ids} {scores}")
        for hit in hits:
            history = self.histories.get(hit["id"])
            if history is None:  # is never written
                continue
            number = _number(hit["item"]["title"])
            if number > history.last:
                self.violate("phantom", f"{hit['id']} {number} of {history.last}")
            elif not history.allows_at(number, version):
                self.violate("stale", f"{hit['id']} {number} at version {version}: {history}")
            elif abs(float(self.vector(hit["id"], number) @ query) - hit["score"]) > SCORE_TOLERANCE:
                self.violate("wrong", f"{hit['id']} {number} has the score {hit['score']}")


def _number(title: str) -> int:
    return int(title.rpartition(" ")[2])
