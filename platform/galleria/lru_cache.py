"""A thread-safe cache that drops the least recently used values."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A mapping of bounded weight that drops the least recently used values. Any thread may use it.

    Args:
        capacity: maximum weight of all values.
        weigh: weight of a value; by default they are counted.
    """

    def __init__(self, capacity: float, weigh: Callable[[V], float] = lambda _: 1.0) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0.0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get_all(self, keys: Iterable[K]) -> dict[K, V]:
        """Return the values of those keys that are in the cache."""
        values = {}
        with self._lock:
            for key in keys:
                if key in self._values:
                    self._values.move_to_end(key)
                    values[key] = self._values[key]
        return values

    def put(self, key: K, value: V) -> list[V]:
        """Add a value; return the values that are dropped for it."""
        dropped = []
        with self._lock:
            if key in self._values:
                self._weight -= self._weigh(self._values.pop(key))
            self._values[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._capacity and len(self._values) > 1:
                dropped.append(self._values.popitem(last=False)[1])
                self._weight -= self._weigh(dropped[-1])
        return dropped
