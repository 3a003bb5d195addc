import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from galleria.serving.open_cache import OpenCache


def test_resource_is_opened_once_by_many_threads():
    opened = []

    def open_slowly(key):
        opened.append(key)
        time.sleep(0.05)
        return object()

    cache = OpenCache(2, open_slowly)
    with ThreadPoolExecutor(4) as pool:
        resources = list(pool.map(cache.open, ["a"] * 4))
    assert opened == ["a"]
    assert all(resource is resources[0] for resource in resources)


def test_least_recently_used_is_closed():
    closed = []
    cache = OpenCache(2, str.upper, closed.append)
    for key in ("a", "b", "a", "c"):
        assert cache.open(key) == key.upper()
    assert closed == ["B"]
    assert [cache.get(key) for key in ("a", "b", "c")] == ["A", None, "C"]


def test_failed_open_is_tried_again():
    outcomes = iter([ValueError("no"), "open"])

    def open_resource(_key):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    cache = OpenCache(1, open_resource)
    with pytest.raises(ValueError, match="no"):
        cache.open("a")
    assert cache.open("a") == "open"


def test_open_resource_needs_no_lock():
    release = threading.Event()

    def open_resource(key):
        if key == "slow":
            release.wait(5)
        return key

    cache = OpenCache(2, open_resource)
    cache.open("a")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.open, "slow")
        assert cache.open("a") == "a"
        release.set()
        assert slow.result() == "slow"
