"""Types that rows, batches and networks are described with. Imports no torch: a gateway starts without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, Any]
"""One record as it is stored, or one example made of it: column name → value."""

VIEW = "view"
"""Key of the number of a further view of a training row, which is augmented in its own way."""

Batch = Mapping[str, "Tensor"]
"""Examples stacked along their first dimension."""

Outputs = dict[str, "Tensor"]
"""What a task computes for a batch, by name."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a network reads and returns when it serves.

    Attributes:
        inputs: columns of a query that it reads, of "image", "text" and "video".
        dimension: length of `embedding`, or None for a network that does not embed.
        levels: number of `level_weights` that a query may have, or 0.
        slices: shorter lengths to which an embedding may be cut.
    """

    inputs: tuple[str, ...]
    dimension: int | None = None
    levels: int = 0
    slices: tuple[int, ...] = ()
