"""The cache drops the least recently used values."""

from hypothesis import given
from hypothesis import strategies as st

from galleria.lru_cache import LRUCache


def test_put_drops_least_recently_used():
    cache = LRUCache[str, int](2)
    assert cache.put("a", 1) == []
    assert cache.put("b", 2) == []
    assert cache.get("a") == 1
    assert cache.put("c", 3) == [2]
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_put_replaces_value_and_weight():
    cache = LRUCache[str, str](10, len)
    cache.put("a", "12345678")
    cache.put("a", "12")
    assert cache.put("b", "12345678") == []
    assert (cache.get("a"), len(cache)) == ("12", 2)


def test_put_keeps_one_value_of_any_weight():
    cache = LRUCache[str, str](3, len)
    cache.put("a", "1")
    assert cache.put("b", "12345") == ["1"]
    assert cache.get("b") == "12345"


def test_get_all_marks_values_as_used():
    cache = LRUCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get_all(["a", "x"]) == {"a": 1}
    assert cache.put("c", 3) == [2]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=60))
def test_cache_is_mapping_of_bounded_weight(puts):
    cache, last = LRUCache[int, int](12, float), {}
    for key, value in puts:
        cache.put(key, value)
        last[key] = value
        cached = {key: hit for key in last if (hit := cache.get(key)) is not None}
        assert cached.items() <= last.items()
        assert cached[key] == value
        assert sum(cached.values()) <= 12
        assert len(cache) == len(cached)
