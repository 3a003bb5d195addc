import pickle

import pytest

from galleria.serving.traffic_split import TrafficSplit


def test_all_has_main_first():
    assert TrafficSplit("main").all == ("main",)
    assert TrafficSplit("main", "canary", 0.1).all == ("main", "canary")


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_pick_follows_canary_weight(weight):
    split = TrafficSplit("main", "canary", weight)
    picked = [split.pick() for _ in range(2000)]
    assert picked.count("canary") / 2000 == pytest.approx(weight, abs=0.06)


def test_without_canary_main_is_picked():
    assert {TrafficSplit("main").pick() for _ in range(20)} == {"main"}


def test_map_keeps_the_weight():
    assert TrafficSplit(1, 2, 0.3).map(str) == TrafficSplit("1", "2", 0.3)
    assert TrafficSplit(1).map(str) == TrafficSplit("1")


def test_split_is_immutable_and_pickled():
    split = TrafficSplit("main", "canary", 0.1)
    with pytest.raises(AttributeError):
        split.main = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(split)) == split
