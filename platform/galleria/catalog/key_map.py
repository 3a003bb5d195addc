"""Maps the keys of items to their current rows: the last row of every id in the product table's log."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

MAX_OVERLAY = 20_000
"""Changes after which the overlay is merged into the sorted arrays."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Address of an item's row in one version of the table, and the hash of its content."""

    address: int
    content: int


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The items of one version by their keys. Never changes: a later version is another object.

    Attributes:
        keys: sorted, `[N]`, of the items when the arrays were made.
        contents: their content hashes.
        addresses: Lance's row addresses.
        overlay: entries that have changed since; None where an item was deleted.
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
        """Return the map of a log: the last row of every key, without deleted ones; all four in the log's order."""
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
        """Return the map after more rows of the log."""
        overlay = dict(self.overlay)
        count = self.count
        for key, content, is_deleted, address in zip(
            keys.tolist(), contents.tolist(), deleted.tolist(), addresses.tolist(), strict=True
        ):
            count += (not is_deleted) - (self._find(key, overlay) is not None)
            overlay[key] = None if is_deleted else Entry(address, content)
        changed = replace(self, overlay=overlay, count=count)
        return changed._merged() if len(overlay) > MAX_OVERLAY else changed

    def get(self, key: int) -> Entry | None:
        """Return an item's entry, or None where there is no such item."""
        return self._find(key, self.overlay)

    def find(self, keys: Sequence[int]) -> list[tuple[int, Entry]]:
        """Return the keys that exist with their entries, in the order given."""
        overlay = self.overlay
        positions = np.searchsorted(self.keys, np.array(keys, np.uint64))
        entries = []
        for key, position in zip(keys, positions.tolist(), strict=True):
            if key in overlay:
                entry = overlay[key]
            elif position < len(self.keys) and self.keys.item(position) == key:
                entry = Entry(self.addresses.item(position), self.contents.item(position))
            else:
                entry = None
            if entry is not None:
                entries.append((key, entry))
        return entries

    def contents_of(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Return the keys that exist with their content hashes, in the order given."""
        if self.overlay or not len(self.keys):
            return [(key, entry.content) for key, entry in self.find(keys)]
        requested = np.array(keys, np.uint64)
        positions = np.searchsorted(self.keys, requested)
        exists = self.keys.take(positions, mode="clip") == requested
        contents = self.contents.take(positions, mode="clip")
        return list(zip(requested[exists].tolist(), contents[exists].tolist(), strict=True))

    def __iter__(self) -> Iterator[int]:
        """Iterate over all keys, sorted."""
        merged = self._merged()
        return iter(merged.keys.tolist())

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return keys (sorted), contents and addresses of all items, `[N]` each."""
        merged = self._merged()
        return merged.keys, merged.contents, merged.addresses

    def _find(self, key: int, overlay: Mapping[int, Entry | None]) -> Entry | None:
        if key in overlay:
            return overlay[key]
        position = int(np.searchsorted(self.keys, np.uint64(key)))
        if position == len(self.keys) or int(self.keys[position]) != key:
            return None
        return Entry(int(self.addresses[position]), int(self.contents[position]))

    def _merged(self) -> "KeyMap":
        if not self.overlay:
            return self
        changed = np.fromiter(self.overlay, np.uint64, len(self.overlay))
        entries = [(entry is None, entry or Entry(0, 0)) for entry in self.overlay.values()]
        return KeyMap.fold(
            np.concatenate([self.keys, changed]),
            np.concatenate([self.contents, np.array([entry.content for _, entry in entries], np.uint64)]),
            np.concatenate([np.zeros(len(self.keys), bool), np.array([deleted for deleted, _ in entries], bool)]),
            np.concatenate([self.addresses, np.array([entry.address for _, entry in entries], np.uint64)]),
        )


def last_positions(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the position of the last occurrence of every key, ordered by key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.ones(len(order), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    positions: NDArray[np.int64] = order[last]
    return positions
