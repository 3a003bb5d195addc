"""Runs a bundle's network in PyTorch. Only what needs PyTorch imports this module: that takes seconds."""

from collections.abc import Callable
from threading import Lock

import torch

from galleria.learn.bundle import Bundle
from galleria.serving.inference.onnx import Arrays

TORCH_LOCK = Lock()
"""PyTorch's networks run one at a time in a process, since each uses all of the threads."""


class EagerNetwork:
    """A bundle's network, on a GPU where there is one. Any thread may call it.

    Attributes:
        signature: of the network.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Build the network.

        Args:
            bundle: its bundle.
            threads: that one run uses.

        Raises:
            BundleError: the weights do not fit the configuration.
        """
        self._threads = threads
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._task = bundle.task().to(self._device)
        self.signature = self._task.signature()

    def __call__(self, batch: Arrays, on_start: Callable[[], None]) -> Arrays:
        """Run a batch; call `on_start` when the network starts, after any wait for other batches."""
        with TORCH_LOCK:
            on_start()
            torch.set_num_threads(self._threads)  # of this thread
            inputs = {name: torch.from_numpy(value).to(self._device) for name, value in batch.items()}
            return {name: value.cpu().numpy() for name, value in self._task.predict(inputs).items()}
