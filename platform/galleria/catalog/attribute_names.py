"""Bounds the number of different names that the attributes of a catalogue's items have: each one is a column."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np

from galleria.catalog.key_map import KeyMap
from galleria.catalog.table import ProductTable
from galleria.errors import DataError

MIN_PAUSE_FACTOR = 20
"""Pause between two counts, as a multiple of what the last one took."""

FREE_PAUSE_S = 1.0
"""Part of a pause that is left out, so that small tables are counted whenever it may help."""


class AttributeNames:
    """The names in use in a table: at least those of its items, and perhaps of items that were replaced since a count.

    Args:
        limit: number of names that items may have together.
        clock: returns seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._names: set[str] = set()
        self._counted: ProductTable | None = None
        self._next_count_at = 0.0

    def count(self, table: ProductTable, key_map: KeyMap) -> None:
        """Read the names of all items of a version of a table."""
        started = self._clock()
        self._names = names_in(table, key_map)
        self._counted = table
        ended = self._clock()
        self._next_count_at = ended + MIN_PAUSE_FACTOR * (ended - started) - FREE_PAUSE_S

    def make_space(self, names: Set[str], table: ProductTable, key_map: KeyMap) -> None:
        """Count again where that may free names that new ones need: not too often, and only after a change."""
        if len(self._names | names) <= self.limit or self._clock() < self._next_count_at:
            return
        if self._counted is None or not table.is_same(self._counted):
            self.count(table, key_map)

    def include(self, attributes: Iterable[str]) -> None:
        """Add the names of items that others wrote, whose attributes are encoded, even where they are too many."""
        self._names.update(*map(json.loads, attributes))

    def add(self, names: Set[str]) -> None:
        """Add the names of an item.

        Raises:
            DataError: they would be too many; none is added then.
        """
        new = names - self._names
        if new and len(self._names) + len(new) > self.limit:
            raise DataError(
                f"attribute {min(new)!r:.80} is a new name, and the catalogue has {len(self._names):,} of at most "
                f"{self.limit:,}: use a name that other items have, delete items with names of their own, or raise "
                "'catalog_attributes' of the service's limits"
            )
        self._names |= new


def check_count(names: Set[str], limit: int) -> None:
    """Check the number of an item's attributes.

    Raises:
        DataError: they are too many.
    """
    if len(names) > limit:
        raise DataError(
            f"has {len(names)} attributes, over the limit of {limit}: send fewer, or raise 'item_attributes' of the "
            "service's limits"
        )


def names_of(attributes: Mapping[str, Any] | str | None) -> Set[str]:
    """Return the names of an item's attributes, which may be encoded."""
    decoded = json.loads(attributes) if isinstance(attributes, str) else attributes
    return frozenset(decoded or ())


def names_in(table: ProductTable, key_map: KeyMap) -> set[str]:
    """Return the names of the attributes of all items of a version of a table."""
    _, _, addresses = key_map.arrays()
    names: set[str] = set()
    for addresses_read, attributes in table.attributes():
        current = np.isin(addresses_read, addresses)
        texts = attributes.filter(current).drop_null().to_pylist()
        names.update(*json.loads(f"[{','.join(texts)}]"))
    return names
