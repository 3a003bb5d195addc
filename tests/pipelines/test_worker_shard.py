"""A worker's shard of a split: streamed once where it may be kept, every time where it may not."""

import pyarrow as pa
import pytest

from galleria.pipelines.worker_shard import WorkerShard


class Shard:
    """A stand-in for Ray's iterator: the rows 0…, two to a batch; counts how often they are requested."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.requests = 0

    def iter_batches(self, **_: object) -> list[pa.Table]:
        self.requests += 1
        return [pa.table({"id": list(range(start, min(start + 2, self.rows)))}) for start in range(0, self.rows, 2)]


@pytest.mark.parametrize(("max_rows", "requests"), [(5, 1), (4, 3), (100, 1)])
def test_rows_over_the_limit_are_streamed_again(max_rows: int, requests: int) -> None:
    shard = Shard(5)
    worker_shard = WorkerShard(shard, max_rows)

    assert [[row["id"] for row in worker_shard] for _ in range(3)] == [[0, 1, 2, 3, 4]] * 3
    assert shard.requests == requests


@pytest.mark.parametrize("max_rows", [5, 4, 1])
def test_selection_yields_chosen_rows(max_rows: int) -> None:
    worker_shard = WorkerShard(Shard(5), max_rows)

    for _ in range(3):
        assert [row["id"] for row in worker_shard.select(lambda indices: indices % 2 == 1)] == [1, 3]
    assert [row["id"] for row in worker_shard] == [0, 1, 2, 3, 4]


def test_interrupted_pass_is_not_cached() -> None:
    shard = Shard(5)
    worker_shard = WorkerShard(shard, 10)

    next(iter(worker_shard))

    assert [row["id"] for row in worker_shard] == [0, 1, 2, 3, 4]
