"""The GPUs of a job: those that are alive, and those that the cluster's autoscaler can start."""

from dataclasses import dataclass
from typing import Literal

import ray
from ray._private.state import state

from galleria.errors import ConfigurationError

Gpus = int | Literal["auto"]
"""Number of GPUs that a job was asked to use, or as many as there can be."""


@dataclass(frozen=True)
class ClusterGpus:
    """GPUs of a cluster.

    Attributes:
        alive: those of its nodes.
        limit: those that it has when the autoscaler has started all nodes that it may start.
    """

    alive: int
    limit: int

    @classmethod
    def connected(cls) -> "ClusterGpus":
        """Return those of the cluster that this process is connected to."""
        alive = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        scalable = state.get_max_resources_from_cluster_config() or {}
        return cls(alive, max(alive, int(scalable.get("GPU", 0))))

    def to_train(self, gpus: Gpus, workers: int) -> int:
        """Return the number of GPUs that `workers` train on: one each, or none.

        Raises:
            ConfigurationError: the cluster cannot have as many, or not as many as workers were requested.
        """
        if gpus == 0 or (gpus == "auto" and self.limit == 0):
            return 0
        if gpus not in ("auto", workers):
            raise ConfigurationError(
                f"--gpus {gpus} is not a valid number for {workers} worker(s), which train on one GPU each: "
                f"give --workers {gpus}, or --gpus 0 to train on CPUs"
            )
        if self.limit < workers:
            raise ConfigurationError(
                f"{workers} worker(s) need a GPU each, and this cluster can have {self.limit}: "
                f"use {'fewer --workers' if self.limit else 'a cluster with GPUs'}, or --gpus 0 to train on CPUs"
            )
        return workers

    def to_predict(self, gpus: Gpus) -> int:
        """Return the number of GPUs that embedding and evaluation use at most.

        Raises:
            ConfigurationError: the cluster cannot have as many.
        """
        if gpus == "auto":
            return self.limit
        if gpus > self.limit:
            raise ConfigurationError(
                f"--gpus {gpus} is not a valid number: this cluster can have {self.limit}; use as many, or auto"
            )
        return gpus

    def describe(self, gpus: int) -> str:
        """Return a line about the GPUs that are used, and those that are waited for."""
        if gpus == 0:
            return f"on CPUs; GPUs of the cluster: {self.limit}" if self.limit else "on CPUs; the cluster has no GPU"
        start = gpus - self.alive
        return f"on {gpus} GPU(s)" + (f", of which the autoscaler starts up to {start}" if start > 0 else "")


def parse_gpus(text: str) -> Gpus:
    """Parse the value of `--gpus`.

    Raises:
        ConfigurationError: it is neither "auto" nor a number.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ConfigurationError(f"--gpus {text!r} is not a valid number of GPUs: use auto, 0 or a number")
    return int(text)
