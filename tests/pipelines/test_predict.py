"""How many threads decode for a GPU."""

from typing import Any

import pytest

from galleria.pipelines.predict import threads_for_gpu


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    found = {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})
    return {"Alive": alive, "Resources": found}


@pytest.mark.parametrize(
    ("nodes", "threads"),
    [
        ([node(8, 1)], 7),
        ([node(96, 8)], 11),
        ([node(64), node(8, 1), node(16, 4)], 3),  # the smallest share of a GPU; nodes without one have none
        ([node(64, 1), node(2, 1, alive=False)], 63),
        ([node(4, 8)], 1),
        ([node(1, 1)], 1),
    ],
)
def test_threads_for_gpu(nodes: list[dict[str, Any]], threads: int) -> None:
    assert threads_for_gpu(nodes) == threads
