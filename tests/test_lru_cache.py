"""What was asked for last is kept."""

from hypothesis import given
from hypothesis import strategies as st

from galleria.lru_cache import LRUCache


def test_put_drops_least_recently_used():
    kept = LRUCache[str, int](2)
    assert kept.put("a", 1) == []
    assert kept.put("b", 2) == []
    assert kept.get("a") == 1
    assert kept.put("c", 3) == [2]
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)


def test_put_replaces_value_and_weight():
    kept = LRUCache[str, str](10, len)
    kept.put("a", "12345678")
    kept.put("a", "12")
    assert kept.put("b", "12345678") == []
    assert (kept.get("a"), len(kept)) == ("12", 2)


def test_put_keeps_one_value_of_any_weight():
    kept = LRUCache[str, str](3, len)
    kept.put("a", "1")
    assert kept.put("b", "12345") == ["1"]
    assert kept.get("b") == "12345"


def test_get_all_marks_values_as_used():
    kept = LRUCache[str, int](2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get_all(["a", "x"]) == {"a": 1}
    assert kept.put("c", 3) == [2]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=60))
def test_cache_is_mapping_of_bounded_weight(puts):
    kept, last = LRUCache[int, int](12, float), {}
    for key, value in puts:
        kept.put(key, value)
        last[key] = value
        found = {key: found for key in last if (found := kept.get(key)) is not None}
        assert found.items() <= last.items()
        assert found[key] == value
        assert sum(found.values()) <= 12
        assert len(kept) == len(found)
