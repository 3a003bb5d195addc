"""Batches of examples made by all CPUs of the cluster, for a worker whose own cannot keep its GPU busy."""

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

TASKS_PER_BATCH = 8
"""CPUs that work on one batch at a time."""
PREFETCHED_BATCHES = 4
"""Batches that are computed while the worker uses another."""
MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(1 << 20),
}
"""glibc keeps the memory of small pictures, and returns that of large ones to the system."""

Part = tuple[dict[str, NDArray[Any]], list[tuple[int, str]]]
"""Arrays of the rows that could be used, and the positions of the others, each with the reason."""


class ClusterExamples(Examples):
    """The same batches as `Examples`, made by Ray tasks, some batches ahead."""

    def stream(self, groups: Iterable[Sequence[Row]], seed: tuple[int, ...] | None = None) -> Iterator[Batch]:
        """Yield one batch for each group of rows, as `Examples.stream`; `PREFETCHED_BATCHES` more are prefetched."""
        context = ray.put(self.context)
        under_way: deque[list[tuple[Sequence[Row], ray.ObjectRef[Part]]]] = deque()
        for rows in groups:
            size = -(-len(rows) // TASKS_PER_BATCH)
            parts = [rows[start : start + size] for start in range(0, len(rows), size or 1)]
            under_way.append([(part, _make.remote(self.family.name, context, part, seed)) for part in parts])
            if len(under_way) > PREFETCHED_BATCHES:
                yield from self._collect(under_way.popleft())
        while under_way:
            yield from self._collect(under_way.popleft())

    def _collect(self, parts: Sequence[tuple[Sequence[Row], "ray.ObjectRef[Part]"]]) -> Iterator[Batch]:
        results = []
        for rows, reference in parts:
            try:
                arrays, rejected = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            for position, reason in rejected:
                self.reject(rows[position], reason)
            if arrays:
                results.append(arrays)
                check_shapes(
                    *({name: array.shape[1:] for name, array in part.items()} for part in (arrays, results[0]))
                )
        if results:
            yield {name: torch.from_numpy(np.concatenate([arrays[name] for arrays in results])) for name in results[0]}


# Not in the placement group of the run, whose CPUs its workers hold; on any node. And not with the memory settings of a
# training worker: a decoder must free the memory of a large picture.
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD", runtime_env={"env_vars": MALLOC_ENVIRONMENT})
def _make(family: str, context: Context[Any], rows: Sequence[Row], seed: tuple[int, ...] | None) -> Part:
    reasons: dict[int, str] = {}
    examples = Examples(load_family(family), context, 1, lambda row, reason: reasons.update({id(row): reason}))
    arrays = {name: value.numpy() for batch in examples.stream([rows], seed) for name, value in batch.items()}
    return arrays, [(position, reasons[id(row)]) for position, row in enumerate(rows) if id(row) in reasons]
