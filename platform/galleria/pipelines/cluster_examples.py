"""Batches of examples made by the CPUs of the whole cluster, for a worker whose own cannot keep its GPU busy."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from galleria.learn.examples import Examples, check_shapes
from galleria.learn.family import Context, load_family
from galleria.learn.task import Batch, Row

PARTS = 8
"""Tasks of one batch: so many CPUs work on it at once."""
AHEAD = 4
"""Batches under way while the worker is busy with another."""
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
}
"""glibc keeps what small pictures take, and gives back the rest."""

Part = tuple[dict[str, NDArray[Any]], list[tuple[int, str]]]
"""Arrays of the rows that could be used, and the places of the others with what is wrong."""


class ClusterExamples(Examples):
    """The same batches as `Examples`, made by Ray tasks, some batches ahead."""

    def stream(self, groups: Iterable[Sequence[Row]], seed: tuple[int, ...] | None = None) -> Iterator[Batch]:
        """One batch for each group of rows, as `Examples.stream`; `AHEAD` groups more are read and being made."""
        context = ray.put(self.context)
        under_way: deque[list[tuple[Sequence[Row], ray.ObjectRef[Part]]]] = deque()
        for rows in groups:
            size = -(-len(rows) // PARTS)
            parts = [rows[start : start + size] for start in range(0, len(rows), size or 1)]
            under_way.append([(part, _make.remote(self.family.name, context, part, seed)) for part in parts])
            if len(under_way) > AHEAD:
                yield from self._collect(under_way.popleft())
        while under_way:
            yield from self._collect(under_way.popleft())

    def _collect(self, parts: Sequence[tuple[Sequence[Row], "ray.ObjectRef[Part]"]]) -> Iterator[Batch]:
        made = []
        for rows, reference in parts:
            try:
                arrays, refused = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            for place, reason in refused:
                self.reject(rows[place], reason)
            if arrays:
                made.append(arrays)
                check_shapes(*({name: array.shape[1:] for name, array in part.items()} for part in (arrays, made[0])))
        if made:
            yield {name: torch.from_numpy(np.concatenate([arrays[name] for arrays in made])) for name in made[0]}


# Not in the placement group of the run, whose CPUs its workers hold; on any node. And not with the memory settings of a
# training worker: a decoder shall give back what a large picture took.
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD", runtime_env={"env_vars": MEMORY})
def _make(family: str, context: Context[Any], rows: Sequence[Row], seed: tuple[int, ...] | None) -> Part:
    refused: dict[int, str] = {}
    examples = Examples(load_family(family), context, 1, lambda row, reason: refused.update({id(row): reason}))
    arrays = {name: value.numpy() for batch in examples.stream([rows], seed) for name, value in batch.items()}
    return arrays, [(place, refused[id(row)]) for place, row in enumerate(rows) if id(row) in refused]
