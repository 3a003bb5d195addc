"""What every model is: one module with a training and a serving method."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

Row = Mapping[str, Any]
"""One record as it is stored, or one example made of it: column name → value."""

Batch = Mapping[str, Tensor]
"""Examples stacked along their first dimension."""

Outputs = dict[str, Tensor]
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


class Task(nn.Module, ABC):
    """A network together with its loss.

    `forward` is what trains (DistributedDataParallel hooks it), `predict` is what serves. `config` is the
    model configuration that the task was built from: building from it again gives the same modules.
    """

    config: BaseModel

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """Training outputs. Holds "loss", a scalar, and may hold its terms for the log."""

    @abstractmethod
    def predict(self, batch: Batch) -> Outputs:
        """Serving outputs, without gradient, from whichever inputs the batch holds."""

    @abstractmethod
    def signature(self) -> Signature:
        """Return what this network reads and returns; may depend on its `config`."""

    def exported(self) -> "Task":
        """The part that is kept for serving: a task of the same family with a smaller `config`."""
        return self

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Set weights in closed form from unaugmented training batches, before the first step."""

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Trainable parameters under the names that a recipe gives learning rates to."""
