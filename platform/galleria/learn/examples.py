"""Rows to batches of tensors: runs a family's `example` over rows and stacks what comes out."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

Reject = Callable[[Row, DataError], None]
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
        waiting = iter(groups)
        with ThreadPoolExecutor(self.threads) as pool:
            rows = next(waiting, None)
            while rows is not None:
                batch = _Batch(len(rows))
                made = [pool.submit(self._make, batch, place, row, seed) for place, row in enumerate(rows)]
                following = next(waiting, None)  # is read while the threads decode
                yield from self._collect(batch, rows, made)
                rows = following

    def _make(self, batch: "_Batch", place: int, row: Row, seed: tuple[int, ...] | None) -> None:
        generator = None
        if seed is not None:
            generator = np.random.default_rng((*seed, zlib.crc32(str(row["id"]).encode())))
        batch.put(place, self.family.example(row, self.context, generator))

    def _collect(self, batch: "_Batch", rows: Sequence[Row], made: Sequence["Future[None]"]) -> Iterator[Batch]:
        good = []
        for place, (row, future) in enumerate(zip(rows, made, strict=True)):
            try:
                future.result()
                good.append(place)
            except DataError as error:
                self.reject(row, error)
        if good:
            yield batch.tensors(good)


class _Batch:
    """Arrays of a batch, into which every thread writes the examples that it makes: nothing is left to be stacked."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def put(self, place: int, example: Row) -> None:
        """Write one example; all have the same columns and shapes."""
        values = {name: np.asarray(value) for name, value in example.items()}
        with self._lock:
            if not self._arrays:
                self._arrays = {name: np.empty((self._count, *v.shape), v.dtype) for name, v in values.items()}
        shapes = {name: array.shape[1:] for name, array in self._arrays.items()}
        found = {name: value.shape for name, value in values.items()}
        if found != shapes:
            raise ValueError(f"one example has shapes {found}, another of its batch {shapes}")
        for name, value in values.items():
            self._arrays[name][place] = value

    def tensors(self, places: Sequence[int]) -> Batch:
        """The examples that were written, with a leading batch dimension."""
        whole = len(places) == self._count
        return {name: torch.from_numpy(found if whole else found[places]) for name, found in self._arrays.items()}


def stack(examples: Sequence[Row]) -> Batch:
    """Examples of the same columns and shapes → tensors with a leading batch dimension."""
    return {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}


def light(batch: Batch) -> Batch:
    """The batch without pictures and frames: they are many bytes, and nobody reads them again beside the outputs."""
    return {name: value for name, value in batch.items() if value.ndim < PICTURE_DIMENSIONS}
