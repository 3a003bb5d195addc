"""A split of a data set as one training worker reads it."""

from collections.abc import Iterable, Iterator
from typing import cast

import pyarrow as pa
from ray.data import DataIterator

from galleria.learn.task import Row

ROWS_PER_SLICE = 64


class WorkerShard:
    """One worker's rows of a split; can be iterated again and again.

    Args:
        shard: the worker's stream of Ray Data.
        max_rows: number of rows that may be cached. A shard of no more is streamed once: Ray Data takes seconds to
            start, every time.
    """

    def __init__(self, shard: DataIterator, max_rows: int) -> None:
        self._shard = shard
        self._max_rows = max_rows
        self._cached: list[Row] | None = None

    def __iter__(self) -> Iterator[Row]:
        if self._cached is not None:
            yield from self._cached
            return
        seen: list[Row] | None = []
        # Blocks are read from shared memory without a copy; batches of another size would be copied first.
        batches = self._shard.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
        blocks = cast(Iterable[pa.Table], batches)
        for block in blocks:
            for start in range(0, len(block), ROWS_PER_SLICE):
                for row in block.slice(start, ROWS_PER_SLICE).to_pylist():
                    if seen is not None:
                        seen.append(row)
                        seen = seen if len(seen) <= self._max_rows else None
                    yield row
        self._cached = seen
