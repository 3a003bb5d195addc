"""The base of every model: one module with a training and a serving method."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel
from torch import Tensor, nn

from galleria.learn.types import VIEW, Batch, Outputs, Row, Signature

__all__ = ["VIEW", "Batch", "Outputs", "Row", "Signature", "Task", "parameters_by_module"]


class Task(nn.Module, ABC):
    """A network together with its loss.

    `forward` is what trains (DistributedDataParallel hooks it), `predict` is what serves. `config` is the
    model configuration that the task was built from: building from it again gives the same modules.
    """

    config: BaseModel

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """Return training outputs: "loss", a scalar, and its terms for the log if there are any."""

    @abstractmethod
    def predict(self, batch: Batch) -> Outputs:
        """Return serving outputs, without gradient, from whichever inputs the batch holds."""

    @abstractmethod
    def signature(self) -> Signature:
        """Return what this network reads and returns; may depend on its `config`."""

    def exported(self) -> "Task":
        """Return the part that is saved for serving: a task of the same family, perhaps with a smaller `config`."""
        return self

    def calibrated(self, temperatures: Mapping[str, float]) -> "Task":  # noqa: ARG002
        """Return this network with its probabilities scaled by temperatures, named as the scores of `evaluate`."""
        return self

    def rebuilt(self, config: BaseModel, state: Mapping[str, Tensor] | None = None) -> Self:
        """Build the task again from `config`, in evaluation mode, with as much of the weights as it has.

        Args:
            config: of the same network or of a part of it.
            state: weights by name; by default this task's own.
        """
        state = self.state_dict() if state is None else state
        task = type(self)(config)
        task.load_state_dict({name: state[name] for name in task.state_dict()})
        return task.eval()

    def with_config(self, **changes: Any) -> Self:
        """Return this task, with the same modules, under a config with other values."""
        task = copy.copy(self)
        task.config = self.config.model_copy(update=changes)
        return task

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Set weights in closed form from unaugmented training batches, before the first step."""

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return trainable parameters under the names that a recipe gives learning rates to."""


def parameters_by_module(task: nn.Module, groups: Mapping[str, str], rest: str) -> dict[str, list[nn.Parameter]]:
    """Group the trainable parameters by the submodule of `task` that holds them.

    Args:
        task: the network.
        groups: name of a submodule → its group.
        rest: group of all other parameters.
    """
    grouped: dict[str, list[nn.Parameter]] = {group: [] for group in (*groups.values(), rest)}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            grouped[groups.get(name.split(".")[0], rest)].append(parameter)
    return grouped
