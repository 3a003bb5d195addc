"""The oracle of `benchmarks.oracle` sees every broken promise, and nothing else."""

import pytest

from benchmarks.oracle_state import KeyHistory, Oracle


@pytest.fixture
def oracle() -> Oracle:
    """Item "a" was put (1), updated (2) and deleted (3), item "b" put (1); a second write of "b" had no response."""
    oracle = Oracle(8)
    oracle.histories = {"a": KeyHistory(last=3), "b": KeyHistory(last=2, uncertain={2: True})}
    for number, deleted, version in ((1, False, 10), (2, False, 12), (3, True, 15)):
        oracle.acknowledge("a", number, deleted, version)
    oracle.acknowledge("b", 1, False, 14)
    return oracle


def response(item_id, number):
    return 200, {"item": {"title": f"{item_id} {number}"}}


@pytest.mark.parametrize(
    ("item_id", "found", "kind"),
    [
        ("a", (404, {}), None),
        ("a", response("a", 2), "lost"),
        ("a", response("a", 3), "deleted"),
        ("a", response("a", 4), "phantom"),
        ("b", response("b", 1), None),
        ("b", (404, {}), None),
        ("b", response("b", 2), "deleted"),
    ],
)
def test_item_is_checked(oracle, item_id, found, kind):
    oracle.check_item(item_id, *found)
    assert dict(oracle.violations) == ({kind: 1} if kind else {})


@pytest.mark.parametrize(
    ("item_id", "number", "version", "kind"),
    [
        ("a", 1, 11, None),
        ("a", 1, 12, "stale"),
        ("a", 2, 11, None),  # committed before its acknowledgement
        ("a", 2, 14, None),
        ("a", 2, 15, "stale"),
        ("a", 4, 15, "phantom"),
        ("b", 2, 20, None),
        ("other", 7, 20, None),
    ],
)
def test_hits_are_checked(oracle, item_id, number, version, kind):
    query = oracle.vector(item_id, number)
    hit = {"id": item_id, "score": 1.0, "item": {"title": f"{item_id} {number}"}}
    oracle.check_hits([hit], query, version)
    assert dict(oracle.violations) == ({kind: 1} if kind else {})


def test_wrong_scores_and_orders_are_found(oracle):
    query = oracle.vector("b", 1)
    hit = {"id": "b", "score": 0.5, "item": {"title": "b 1"}}
    oracle.check_hits([hit], query, 20)
    oracle.check_hits([hit | {"score": 1.0}] * 2, query, 20)
    oracle.check_hits([{"id": "x", "score": 0.1, "item": {}}, {"id": "y", "score": 0.2, "item": {}}], query, 20)
    assert dict(oracle.violations) == {"wrong": 3}
    assert len(oracle.examples) == 3


def test_acknowledged_versions_are_the_newest(oracle):
    assert oracle.newest == 15
