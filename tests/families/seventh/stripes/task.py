"""One convolution, and a linear layer on how strongly it answers."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from galleria.learn.recipe import Frozen
from galleria.learn.task import Batch, Outputs, Signature, Task


class StripesConfig(Frozen):
    size: int = Field(32, ge=8)
    classes: int = 0


class Stripes(Task):
    config: StripesConfig

    def __init__(self, config: StripesConfig) -> None:
        super().__init__()
        self.config = config
        self.filters = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, config.classes)

    def forward(self, batch: Batch) -> Outputs:
        return {"loss": F.cross_entropy(self.logits(batch["pixels"]), batch["label"])}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        return {"probabilities": self.logits(batch["pixels"]).softmax(1)}

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.filters(pixels / 255 - 0.5).square().mean((2, 3)))

    def signature(self) -> Signature:
        return Signature(inputs=("image",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"all": list(self.parameters())}
