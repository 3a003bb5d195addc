"""A key map holds what a dictionary would hold after the same changes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.catalog.key_map import MAX_OVERLAY, Entry, KeyMap, last_positions

CHANGES = st.lists(st.tuples(st.integers(0, 7).map(lambda key: key * (2**61 + 1)), st.integers(1, 9), st.booleans()))
Change = tuple[int, int, bool]


def columns(changes: list[Change], first: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a log of these changes whose rows have the addresses from `first` on."""
    keys, contents, deleted = (list(column) for column in zip(*changes, strict=True)) if changes else ([], [], [])
    return (
        np.array(keys, np.uint64),
        np.array(contents, np.uint64),
        np.array(deleted, bool),
        np.arange(first, first + len(changes), dtype=np.uint64),
    )


def oracle(changes: list[Change]) -> dict[int, Entry]:
    entries: dict[int, Entry] = {}
    for address, (key, content, deleted) in enumerate(changes):
        entries.pop(key, None)
        if not deleted:
            entries[key] = Entry(address, content)
    return entries


def assert_holds(key_map: KeyMap, expected: dict[int, Entry], requested: set[int]) -> None:
    keys, contents, addresses = key_map.arrays()
    entries = [Entry(address, content) for address, content in zip(addresses.tolist(), contents.tolist(), strict=True)]
    assert dict(zip(keys.tolist(), entries, strict=True)) == expected
    assert keys.tolist() == list(key_map) == sorted(expected)
    assert key_map.count == len(expected)
    assert {key: key_map.get(key) for key in requested} == {key: expected.get(key) for key in requested}
    assert key_map.find([*requested, *requested]) == [
        (key, expected[key]) for key in [*requested, *requested] if key in expected
    ]
    contents = [(key, expected[key].content) for key in requested if key in expected]
    assert key_map.contents_of([*requested]) == contents
    assert KeyMap(*key_map.arrays(), count=key_map.count).contents_of([*requested]) == contents


@settings(deadline=None, derandomize=True)
@given(changes=CHANGES)
def test_fold_matches_dictionary(changes):
    assert_holds(KeyMap.fold(*columns(changes)), oracle(changes), {key for key, _, _ in changes} | {0, 2**64 - 1})


@settings(deadline=None, derandomize=True)
@given(first=CHANGES, second=CHANGES, third=CHANGES)
def test_apply_matches_dictionary(first, second, third):
    start = KeyMap.fold(*columns(first))
    middle = start.apply(*columns(second, len(first)))
    end = middle.apply(*columns(third, len(first) + len(second)))

    requested = {key for key, _, _ in first + second + third} | {5}
    assert_holds(end, oracle(first + second + third), requested)
    assert_holds(middle, oracle(first + second), requested)
    assert_holds(start, oracle(first), requested)


def test_apply_merges_large_overlay():
    changes = [(key, 1, False) for key in range(MAX_OVERLAY + 10)]
    start = KeyMap.fold(*columns(changes[:10]))

    waiting = start.apply(*columns(changes[10:MAX_OVERLAY], 10))
    merged = waiting.apply(*columns([*changes[MAX_OVERLAY:], (3, 0, True)], MAX_OVERLAY))

    assert (len(waiting.overlay), len(merged.overlay)) == (MAX_OVERLAY - 10, 0)
    assert (waiting.count, merged.count) == (MAX_OVERLAY, MAX_OVERLAY + 9)
    assert merged.get(3) is None
    assert merged.get(MAX_OVERLAY + 9) == Entry(MAX_OVERLAY + 9, 1)


def test_fold_of_empty_log_is_empty():
    empty = KeyMap.fold(*columns([]))

    assert (empty.count, list(empty), empty.get(0)) == (0, [], None)


def test_last_positions_are_ordered_by_key():
    assert last_positions(np.array([7, 3, 7, 5, 3], np.uint64)).tolist() == [4, 3, 2]
