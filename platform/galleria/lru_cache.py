"""What was asked for last, kept within a bound."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A mapping that forgets what was not asked for the longest. Any thread may use it.

    Args:
        most: weight of all that is kept.
        weigh: weight of a value; by default they are counted.
    """

    def __init__(self, most: float, weigh: Callable[[V], float] = lambda _: 1.0) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0.0
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """The value of a key, or None where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def get_all(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that are kept."""
        found = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
        return found

    def put(self, key: K, value: V) -> list[V]:
        """Keep a value; gives those that are forgotten, since it does not fit beside them."""
        forgotten = []
        with self._lock:
            if key in self._kept:
                self._weight -= self._weigh(self._kept.pop(key))
            self._kept[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._most and len(self._kept) > 1:
                forgotten.append(self._kept.popitem(last=False)[1])
                self._weight -= self._weigh(forgotten[-1])
        return forgotten
