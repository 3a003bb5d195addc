"""Turns a stream of rows into shuffled training batches, with rows of one group next to each other."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from galleria.errors import ConfigurationError
from galleria.learn.recipe import Sampling
from galleria.learn.task import VIEW, Row


def training_batches(rows: Iterable[Row], sampling: Sampling, generator: np.random.Generator) -> Iterator[list[Row]]:
    """Shuffle `rows` through a buffer and yield batches of exactly `sampling.batch_size` rows.

    With `sampling.group`, rows of the buffer that share the column's value come out in runs of up to
    `group_size`: metric learning finds its positive pairs in the batch. The `sampling.views` of a row, which differ in
    their `VIEW`, are neighbours. The last, incomplete batch is dropped.
    """
    batch: list[Row] = []
    for row in _shuffled(rows, sampling, generator):
        for view in range(sampling.views):
            batch.append({**row, VIEW: view} if view else row)
            if len(batch) == sampling.batch_size:
                yield batch
                batch = []


def deal(groups: NDArray[np.int64], workers: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """Deal rows to workers anew for every seed: the same number to each, and groups whole but for at most one each.

    Args:
        groups: `[N]` group of every row, from 0.
        workers: W.
        seed: of the deal, such as that of the run and the epoch.

    Returns:
        `[N]` worker of every row; -1 for the remaining N mod W rows, which nobody has this time.
    """
    if workers == 1:
        return np.zeros(len(groups), np.int64)
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups].argsort(kind="stable")
    worker = np.full(len(groups), -1, np.int64)
    worker[order] = np.arange(len(groups)) // (len(groups) // workers)
    worker[worker >= workers] = -1
    return worker


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in their order, `size` at a time; the last chunk may be smaller."""
    remaining = iter(rows)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def _shuffled(rows: Iterable[Row], sampling: Sampling, generator: np.random.Generator) -> Iterator[Row]:
    buffer: list[Row] = []
    for row in rows:
        buffer.append(row)
        if len(buffer) >= sampling.buffer:
            mixed = _mix(buffer, sampling, generator)
            half = len(mixed) // 2
            yield from mixed[:half]
            buffer = mixed[half:]
    yield from _mix(buffer, sampling, generator)


def _mix(rows: list[Row], sampling: Sampling, generator: np.random.Generator) -> list[Row]:
    order = [rows[index] for index in generator.permutation(len(rows))]
    if sampling.group is None:
        return order
    groups: dict[object, list[Row]] = {}
    for row in order:
        if sampling.group not in row:
            raise ConfigurationError(
                f"the recipe groups by {sampling.group!r}, but a row's columns are {', '.join(row)}: choose one of them"
            )
        groups.setdefault(row[sampling.group], []).append(row)
    runs = [
        members[start : start + sampling.group_size]
        for members in groups.values()
        for start in range(0, len(members), sampling.group_size)
    ]
    return [row for index in generator.permutation(len(runs)) for row in runs[index]]
