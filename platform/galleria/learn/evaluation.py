"""What the families' `evaluate` functions share: columns over all batches, and rows by source."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from galleria.learn.types import Batch, Outputs


def collect(pairs: Iterable[tuple[Batch, Outputs]], inputs: Iterable[str]) -> dict[str, torch.Tensor]:
    """Join the named inputs that batches have and all outputs over the batches, on the CPU."""
    names = tuple(inputs)
    columns: dict[str, list[torch.Tensor]] = {}
    for batch, outputs in pairs:
        for name, value in ({name: batch[name] for name in names if name in batch} | outputs).items():
            columns.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(parts) for name, parts in columns.items()}


def rows_by_source(sources: NDArray[np.int64], names: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each named source that has a row, with its rows.

    Args:
        sources: `[N]` indices into `names`, or -1.
        names: of the sources; rows of the empty one are left out.
    """
    for index, name in enumerate(names):
        rows = sources == index
        if name and rows.any():
            yield name, rows
