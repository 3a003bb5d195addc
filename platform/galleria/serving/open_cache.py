"""Opens each resource once, whichever thread asks first, and keeps the last ones open."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

from galleria.lru_cache import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class OpenCache(Generic[K, V]):
    """The resources that were used last. Any thread may use it.

    Args:
        capacity: resources that stay open.
        open_resource: opens the resource of a key.
        close: is called with each resource that does not stay open.
    """

    def __init__(
        self, capacity: int, open_resource: Callable[[K], V], close: Callable[[V], object] | None = None
    ) -> None:
        self._cache = LRUCache[K, V](capacity)
        self._open_resource = open_resource
        self._close = close
        self._opening = Lock()

    def get(self, key: K) -> V | None:
        """Return the resource of a key where it is open."""
        return self._cache.get(key)

    def open(self, key: K) -> V:
        """Return the resource of a key; open it where it is not. Raises as `open_resource`."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        with self._opening:
            cached = self._cache.get(key)  # another thread may have opened it meanwhile
            if cached is not None:
                return cached
            opened = self._open_resource(key)
            for evicted in self._cache.put(key, opened):
                if self._close is not None:
                    self._close(evicted)
            return opened
