"""A split of a data set as one training worker reads it."""

from collections.abc import Iterable, Iterator
from typing import cast

import pyarrow as pa
from ray.data import DataIterator

from galleria.learn.task import Row

ROWS_AT_ONCE = 64


class WorkerShard:
    """This worker's share of a split, row by row, as often as it is asked for.

    Args:
        shard: streams the share out of Ray Data.
        most: rows that may be kept. A split that has no more is streamed once: Ray Data needs seconds to start, every
            time again.
    """

    def __init__(self, shard: DataIterator, most: int) -> None:
        self._shard = shard
        self._most = most
        self._kept: list[Row] | None = None

    def __iter__(self) -> Iterator[Row]:
        if self._kept is not None:
            yield from self._kept
            return
        seen: list[Row] | None = []
        # Whole blocks come as they lie in shared memory; batches of another size would be copied together first.
        given = self._shard.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
        blocks = cast(Iterable[pa.Table], given)
        for block in blocks:
            for start in range(0, len(block), ROWS_AT_ONCE):
                for row in block.slice(start, ROWS_AT_ONCE).to_pylist():
                    if seen is not None:
                        seen.append(row)
                        seen = seen if len(seen) <= self._most else None
                    yield row
        self._kept = seen
