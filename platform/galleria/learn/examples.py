"""Rows to batches of tensors: runs a family's `example` over rows and stacks the results."""

import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.learn.family import Context, Family
from galleria.learn.task import VIEW, Batch, Row

PICTURE_DIMENSIONS = 4
"""`[B, 3, H, W]` and more: a batch of pictures or of videos."""

Reject = Callable[[Row, str], None]
"""Receives every row that cannot be used, with the reason."""


class Examples:
    """Makes batches of one family's examples, decoding in threads.

    A row that cannot be used is handed to `reject` and left out of its batch.
    """

    def __init__(self, family: Family[Any], context: Context[Any], threads: int, reject: Reject) -> None:
        self.family = family
        self.context = context
        self.reject = reject
        self.threads = threads

    def stream(self, groups: Iterable[Sequence[Row]], seed: tuple[int, ...] | None = None) -> Iterator[Batch]:
        """Yield one batch for each group of rows, decoded on demand. With `seed`, augmented for training.

        A row's augmentation depends on `seed`, the row's id and its view alone, so it is the same whichever thread,
        worker or order it is made in. No batch is decoded ahead: a GPU is busy with the previous step meanwhile, and
        on CPUs threads that decode during a step slow it down by more than they save.
        """
        batches = (_Batch(rows) for rows in groups)
        make = functools.partial(self._make, seed)
        with ThreadPoolExecutor(self.threads, "examples") as pool:
            batch = next(batches, None)
            while batch is not None:
                threads = [pool.submit(batch.fill, make) for _ in range(self.threads)]
                next_batch = next(batches, None)  # is read while the threads decode
                for thread in threads:
                    thread.result()
                for index in sorted(batch.rejected):
                    self.reject(batch.rows[index], batch.rejected[index])
                yield from batch.tensors()
                batch = next_batch

    def _make(self, seed: tuple[int, ...] | None, row: Row) -> Row:
        generator = None
        if seed is not None:
            view = (row[VIEW],) if VIEW in row else ()
            generator = np.random.default_rng((*seed, zlib.crc32(str(row["id"]).encode()), *view))
        return self.family.example(row, self.context, generator)


class _Batch:
    """Rows that threads take one after another, and the arrays into which they write the examples.

    So no row needs a task of its own, and no arrays are stacked afterwards.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.rejected: dict[int, str] = {}
        self._remaining = iter(range(len(rows)))
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def fill(self, make: Callable[[Row], Row]) -> None:
        """Make examples until no row is left; any number of threads may run this."""
        while True:
            with self._lock:
                index = next(self._remaining, None)
            if index is None:
                return
            try:
                self._put(index, make(self.rows[index]))
            except DataError as error:
                self.rejected[index] = str(error)  # the error itself would keep its frames alive, and they the batch

    def _put(self, index: int, example: Row) -> None:
        """Write one example; all have the same columns and shapes."""
        values = {name: np.asarray(value) for name, value in example.items()}
        with self._lock:
            if not self._arrays:
                self._arrays = {name: np.empty((len(self.rows), *v.shape), v.dtype) for name, v in values.items()}
        check_shapes(
            {name: value.shape for name, value in values.items()},
            {name: array.shape[1:] for name, array in self._arrays.items()},
        )
        for name, value in values.items():
            self._arrays[name][index] = value

    def tensors(self) -> Iterator[Batch]:
        """Yield the examples, with a leading batch dimension: one batch, or none where all rows were rejected."""
        accepted = [index for index in range(len(self.rows)) if index not in self.rejected]
        if accepted:
            arrays = {name: array[accepted] if self.rejected else array for name, array in self._arrays.items()}
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless two examples of one batch have the same columns, and shapes in them."""
    if shapes != expected:
        raise ValueError(f"one example has shapes {shapes}, another of its batch {expected}")


def stack(examples: Sequence[Row]) -> Batch:
    """Stack examples of the same columns and shapes along a leading batch dimension."""
    return {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}


def without_pictures(batch: Batch) -> Batch:
    """Return the batch without pictures and frames: they are many bytes, and no metric reads them."""
    return {name: value for name, value in batch.items() if value.ndim < PICTURE_DIMENSIONS}
