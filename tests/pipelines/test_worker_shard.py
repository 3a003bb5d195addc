"""A worker's share of a split: streamed once where it may be kept, every time where it may not."""

import pyarrow as pa
import pytest

from galleria.pipelines.worker_shard import WorkerShard


class Shard:
    """A stand-in for Ray's iterator: the rows 0…, two to a batch; counts how often it was asked."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked = 0

    def iter_batches(self, **_: object) -> list[pa.Table]:
        self.asked += 1
        return [pa.table({"id": list(range(start, min(start + 2, self.rows)))}) for start in range(0, self.rows, 2)]


@pytest.mark.parametrize(("most", "asked"), [(5, 1), (4, 3), (100, 1)])
def test_rows_are_the_same_every_time_and_streamed_again_only_where_they_are_too_many(most: int, asked: int) -> None:
    shard = Shard(5)
    share = WorkerShard(shard, most)

    assert [[row["id"] for row in share] for _ in range(3)] == [[0, 1, 2, 3, 4]] * 3
    assert shard.asked == asked


def test_a_pass_that_was_broken_off_is_not_taken_for_the_whole() -> None:
    shard = Shard(5)
    share = WorkerShard(shard, 10)

    next(iter(share))

    assert [row["id"] for row in share] == [0, 1, 2, 3, 4]
