"""Finds the place of an id in a table, in sixteen bytes a row."""

import hashlib
from collections.abc import Iterable

import numpy as np


class Places:
    """Places by id. Keys of different ids may agree: check the id of the row that is found."""

    def __init__(self, ids: Iterable[str]) -> None:
        keys = np.fromiter((_key(item_id) for item_id in ids), np.uint64)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def candidates(self, item_id: str) -> list[int]:
        """Places that may hold `item_id`, most often one or none."""
        key = np.uint64(_key(item_id))
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        return [int(place) for place in self._order[first:last]]


def _key(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
