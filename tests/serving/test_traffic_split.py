import pickle
import subprocess
import sys

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


def test_pick_keeps_a_session_on_one_version():
    split = TrafficSplit("main", "canary", 0.3)
    sessions = [f"session {number}" for number in range(2000)]
    picked = {session: split.pick(session) for session in sessions}

    assert all(split.pick(session) == version for session, version in picked.items())
    assert list(picked.values()).count("canary") / 2000 == pytest.approx(0.3, abs=0.04)
    assert {session for session, version in picked.items() if version == "canary"} < {
        session for session in sessions if TrafficSplit("main", "canary", 0.6).pick(session) == "canary"
    }, "a larger weight moves sessions to the canary, and none back"
    assert {TrafficSplit("main", "canary", 0.0).pick(session) for session in sessions} == {"main"}
    assert {TrafficSplit("main", "canary", 1.0).pick(session) for session in sessions} == {"canary"}


def test_pick_is_the_same_in_every_process():
    script = (
        "from galleria.serving.traffic_split import TrafficSplit\n"
        "print(''.join(TrafficSplit('m', 'c', 0.5).pick(f'kunde-ä{n}') for n in range(64)))"
    )
    runs = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    here = "".join(TrafficSplit("m", "c", 0.5).pick(f"kunde-ä{number}") for number in range(64))

    assert runs == {here + "\n"}
    assert {*here} == {"m", "c"}


def test_without_canary_main_is_picked():
    split = TrafficSplit("main")
    assert split.canary_weight == 0
    assert {split.pick() for _ in range(20)} == {"main"}


def test_map_keeps_the_weight():
    assert TrafficSplit(1, 2, 0.3).map(str) == TrafficSplit("1", "2", 0.3)
    assert TrafficSplit(1).map(str) == TrafficSplit("1")


def test_split_is_immutable_and_pickled():
    split = TrafficSplit("main", "canary", 0.1)
    with pytest.raises(AttributeError):
        split.main = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(split)) == split
