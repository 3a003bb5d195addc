"""Rows to batches of tensors: runs a family's `example` over rows and stacks what comes out."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

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
        with ThreadPoolExecutor(self.threads) as pool:
            for rows in groups:
                yield from self._collect([(row, pool.submit(self._example, row, seed)) for row in rows])

    def _example(self, row: Row, seed: tuple[int, ...] | None) -> Row:
        generator = None
        if seed is not None:
            generator = np.random.default_rng((*seed, zlib.crc32(str(row["id"]).encode())))
        return self.family.example(row, self.context, generator)

    def _collect(self, futures: Any) -> Iterator[Batch]:
        examples = []
        for row, future in futures:
            try:
                examples.append(future.result())
            except DataError as error:
                self.reject(row, error)
        if examples:
            yield stack(examples)


def stack(examples: Sequence[Row]) -> Batch:
    """Examples of the same columns and shapes → tensors with a leading batch dimension."""
    return {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}


def light(batch: Batch) -> Batch:
    """The batch without pictures and frames: they are many bytes, and nobody reads them again beside the outputs."""
    return {name: value for name, value in batch.items() if value.ndim < PICTURE_DIMENSIONS}
