"""A split of a data set as one training worker reads it."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import DataIterator

from galleria.learn.task import Row

ROWS_PER_SLICE = 64


class WorkerShard:
    """The rows of a split, in the order of its files; can be iterated again and again, over all rows or over some.

    Args:
        stream: Ray Data's stream of the split.
        max_rows: number of rows that may be cached. A split of no more is streamed once: Ray Data takes seconds to
            start, every time.
    """

    def __init__(self, stream: DataIterator, max_rows: int) -> None:
        self._stream = stream
        self._max_rows = max_rows
        self._cached: list[Row] | None = None
        self._is_large = False

    def __iter__(self) -> Iterator[Row]:
        return self.select(lambda indices: np.ones(len(indices), np.bool_))

    def select(self, chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> Iterator[Row]:
        """Yield the rows that a worker was dealt: `chosen` says for `[N]` indices of rows which they are."""
        if self._cached is not None:
            own = chosen(np.arange(len(self._cached)))
            yield from (row for row, is_own in zip(self._cached, own, strict=True) if is_own)
            return
        seen: list[Row] = []
        index = 0
        # Blocks are read from shared memory without a copy; batches of another size would be copied first.
        batches = self._stream.iter_batches(batch_size=None, batch_format="pyarrow")  # type: ignore[arg-type]
        for block in cast(Iterable[pa.Table], batches):
            for start in range(0, len(block), ROWS_PER_SLICE):
                rows = block.slice(start, ROWS_PER_SLICE)
                own = chosen(np.arange(index, index + len(rows)))
                index += len(rows)
                if self._is_large:
                    yield from rows.filter(pa.array(own)).to_pylist()
                    continue
                read = rows.to_pylist()
                seen += read
                if len(seen) > self._max_rows:
                    self._is_large = True
                    seen = []
                yield from (row for row, is_own in zip(read, own, strict=True) if is_own)
        if not self._is_large:
            self._cached = seen
