"""What holds now: the last row of every id in the log that a product table is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

MAX_OVERLAY = 20_000
"""Changes that are kept beside the sorted arrays before they are merged into them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an item's row lies in one version of the table, and the hash of its content."""

    address: int
    content: int


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The items of one version by their keys. Never changes: a later version is another object.

    Attributes:
        keys: sorted, `[N]`, of the items when the arrays were made.
        contents: their content hashes.
        addresses: Lance's row addresses.
        overlay: what has changed since; None where an item was deleted.
        count: number of items.
    """

    keys: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    addresses: NDArray[np.uint64]
    overlay: Mapping[int, Entry | None] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def fold(
        cls,
        keys: NDArray[np.uint64],
        contents: NDArray[np.uint64],
        deleted: NDArray[np.bool_],
        addresses: NDArray[np.uint64],
    ) -> "KeyMap":
        """The last row of every key, without those that were deleted; all four in the log's order."""
        last = last_positions(keys)
        last = last[~deleted[last]]
        return cls(keys[last], contents[last], addresses[last], count=len(last))

    def apply(
        self,
        keys: NDArray[np.uint64],
        contents: NDArray[np.uint64],
        deleted: NDArray[np.bool_],
        addresses: NDArray[np.uint64],
    ) -> "KeyMap":
        """The same with more rows of the log behind it."""
        overlay = dict(self.overlay)
        count = self.count
        for key, content, gone, address in zip(
            keys.tolist(), contents.tolist(), deleted.tolist(), addresses.tolist(), strict=True
        ):
            count += (not gone) - (self._find(key, overlay) is not None)
            overlay[key] = None if gone else Entry(address, content)
        changed = replace(self, overlay=overlay, count=count)
        return changed._merged() if len(overlay) > MAX_OVERLAY else changed

    def get(self, key: int) -> Entry | None:
        """An item's entry, or None where there is no such item."""
        return self._find(key, self.overlay)

    def find(self, keys: Sequence[int]) -> list[tuple[int, Entry]]:
        """Keys and entries of those that there are, in the order of the keys."""
        overlay = self.overlay
        places = np.searchsorted(self.keys, np.array(keys, np.uint64))
        found = []
        for key, place in zip(keys, places.tolist(), strict=True):
            if key in overlay:
                entry = overlay[key]
            elif place < len(self.keys) and self.keys.item(place) == key:
                entry = Entry(self.addresses.item(place), self.contents.item(place))
            else:
                entry = None
            if entry is not None:
                found.append((key, entry))
        return found

    def contents_of(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Keys and content hashes of those that there are, in the order of the keys."""
        if self.overlay or not len(self.keys):
            return [(key, entry.content) for key, entry in self.find(keys)]
        wanted = np.array(keys, np.uint64)
        places = np.searchsorted(self.keys, wanted)
        there = self.keys.take(places, mode="clip") == wanted
        contents = self.contents.take(places, mode="clip")
        return list(zip(wanted[there].tolist(), contents[there].tolist(), strict=True))

    def __iter__(self) -> Iterator[int]:
        """All keys."""
        merged = self._merged()
        return iter(merged.keys.tolist())

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Keys (sorted), contents and addresses of all items, `[N]` each."""
        merged = self._merged()
        return merged.keys, merged.contents, merged.addresses

    def _find(self, key: int, overlay: Mapping[int, Entry | None]) -> Entry | None:
        if key in overlay:
            return overlay[key]
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place == len(self.keys) or int(self.keys[place]) != key:
            return None
        return Entry(int(self.addresses[place]), int(self.contents[place]))

    def _merged(self) -> "KeyMap":
        if not self.overlay:
            return self
        changed = np.fromiter(self.overlay, np.uint64, len(self.overlay))
        entries = [(entry is None, entry or Entry(0, 0)) for entry in self.overlay.values()]
        return KeyMap.fold(
            np.concatenate([self.keys, changed]),
            np.concatenate([self.contents, np.array([entry.content for _, entry in entries], np.uint64)]),
            np.concatenate([np.zeros(len(self.keys), bool), np.array([gone for gone, _ in entries], bool)]),
            np.concatenate([self.addresses, np.array([entry.address for _, entry in entries], np.uint64)]),
        )


def last_positions(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the last occurrence of every key, ordered by key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.ones(len(order), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    chosen: NDArray[np.int64] = order[last]
    return chosen
