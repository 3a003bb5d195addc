"""Rows to batches of tensors: runs a family's `example` over rows and stacks what comes out."""

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
from galleria.learn.task import Batch, Row

PICTURE_DIMENSIONS = 4
"""`[B, 3, H, W]` and more: a batch of pictures or of videos."""

Reject = Callable[[Row, str], None]
"""Told of every row that cannot be used, with the reason."""


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
        """One batch for each group of rows, made when it is asked for. With `seed`, augmented for training.

        A row's augmentation depends on `seed` and the row's id alone, so it is the same whichever thread,
        worker or order it is made in. Nothing is decoded ahead: GPUs work on the step before meanwhile, and on
        CPUs threads that decode beside a step slow it down by more than they save.
        """
        waiting = (_Batch(rows) for rows in groups)
        make = functools.partial(self._make, seed)
        with ThreadPoolExecutor(self.threads) as pool:
            batch = next(waiting, None)
            while batch is not None:
                making = [pool.submit(batch.fill, make) for _ in range(self.threads)]
                following = next(waiting, None)  # is read while the threads decode
                for thread in making:
                    thread.result()
                for place in sorted(batch.refused):
                    self.reject(batch.rows[place], batch.refused[place])
                yield from batch.tensors()
                batch = following

    def _make(self, seed: tuple[int, ...] | None, row: Row) -> Row:
        generator = None
        if seed is not None:
            generator = np.random.default_rng((*seed, zlib.crc32(str(row["id"]).encode())))
        return self.family.example(row, self.context, generator)


class _Batch:
    """Rows that threads take one after another, and the arrays into which they write what they made of each.

    So no row needs a task of its own, and nothing is left to be stacked.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.refused: dict[int, str] = {}
        self._left = iter(range(len(rows)))
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def fill(self, make: Callable[[Row], Row]) -> None:
        """Make examples until no row is left; for as many threads as like."""
        while True:
            with self._lock:
                place = next(self._left, None)
            if place is None:
                return
            try:
                self._put(place, make(self.rows[place]))
            except DataError as error:
                self.refused[place] = str(error)  # the error would keep its frames, and they the batch

    def _put(self, place: int, example: Row) -> None:
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
            self._arrays[name][place] = value

    def tensors(self) -> Iterator[Batch]:
        """The examples that were made, with a leading batch dimension: one batch, or none where all were refused."""
        good = [place for place in range(len(self.rows)) if place not in self.refused]
        if good:
            arrays = {name: found[good] if self.refused else found for name, found in self._arrays.items()}
            yield {name: torch.from_numpy(found) for name, found in arrays.items()}


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless two examples of one batch have the same columns, and shapes in them."""
    if found != expected:
        raise ValueError(f"one example has shapes {found}, another of its batch {expected}")


def stack(examples: Sequence[Row]) -> Batch:
    """Examples of the same columns and shapes → tensors with a leading batch dimension."""
    return {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}


def light(batch: Batch) -> Batch:
    """The batch without pictures and frames: they are many bytes, and nobody reads them again beside the outputs."""
    return {name: value for name, value in batch.items() if value.ndim < PICTURE_DIMENSIONS}
