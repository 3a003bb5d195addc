"""The network: one convolution, and a linear layer on the energy of its responses."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from galleria.families.stripes.config import StripesConfig
from torch import nn

from galleria.learn.task import Batch, Outputs, Signature, Task


class Stripes(Task):
    """Model and loss: `forward` for training, `predict` for everything else."""

    config: StripesConfig

    def __init__(self, config: StripesConfig) -> None:
        super().__init__()
        self.config = config
        self.filters = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, config.classes)

    def forward(self, batch: Batch) -> Outputs:
        """Return the loss of a batch."""
        return {"loss": F.cross_entropy(self.logits(batch["pixels"]), batch["label"])}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return the probability of each pattern `[B, classes]`."""
        return {"probabilities": self.logits(batch["pixels"]).softmax(1)}

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, classes]` for pixels `[B, 3, size, size]`."""
        return self.head(self.filters(pixels / 255 - 0.5).square().mean((2, 3)))

    def signature(self) -> Signature:
        """Return what `predict` reads and makes."""
        return Signature(inputs=("image",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return the parameters that share a learning rate, by name."""
        return {"all": list(self.parameters())}
