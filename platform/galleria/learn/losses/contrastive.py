"""Contrastive losses over mined pairs and a cross-batch memory, with pytorch-metric-learning."""

from typing import Any, cast

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory, SupConLoss
from pytorch_metric_learning.miners import BatchHardMiner, MultiSimilarityMiner, PairMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.losses.mining import Mining

MINERS = {"multi_similarity": MultiSimilarityMiner, "batch_hard": BatchHardMiner, "pair_margin": PairMarginMiner}


class MinedLoss(nn.Module):
    """A loss of `(embeddings [B, D], labels [B])` over the pairs that a miner chooses, within a batch or a memory.

    The memory holds the embeddings of the last `memory_size` rows, without gradient (Wang et al., "Cross-Batch Memory
    for Embedding Learning", 2020). Its rows and their number are saved with the weights, so that a run resumes alike.
    """

    def __init__(self, loss: nn.Module, mining: Mining, dimension: int) -> None:
        super().__init__()
        self.loss = loss
        self.miner = MINERS[mining.miner]() if mining.miner != "none" else None
        self.memory = Memory(loss, dimension, mining.memory_size, self.miner) if mining.memory_size else None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; 0 with a gradient of 0 where no pair is chosen.

        Raises:
            ConfigurationError: the memory is smaller than a batch.
        """
        if self.memory is not None:
            if len(embeddings) > self.memory.memory_size:
                raise ConfigurationError(
                    f"memory_size={self.memory.memory_size} is less than the {len(embeddings)} rows of a step: use more"
                )
            return cast(Tensor, self.memory(embeddings, labels))
        pairs = self.miner(embeddings, labels) if self.miner is not None else None
        return cast(Tensor, self.loss(embeddings, labels, pairs))


class Memory(CrossBatchMemory):  # type: ignore[misc]
    """A cross-batch memory whose state can be saved."""

    @staticmethod
    def supported_losses() -> list[str]:
        """Return the library's losses, and ours."""
        return [*CrossBatchMemory.supported_losses(), PairContrast.__name__]

    def get_extra_state(self) -> Tensor:
        """Return where the next row goes, and whether all rows have been written."""
        return torch.tensor([self.queue_idx, int(self.has_been_filled)])

    def set_extra_state(self, state: Any) -> None:
        """Continue from a saved state."""
        self.queue_idx, self.has_been_filled = int(state[0]), bool(state[1])


class PairContrast(ContrastiveLoss):  # type: ignore[misc]
    """½ [mean of d² over pairs of one class + mean of max(0, margin − d)² over the others], d Euclidean."""

    def __init__(self, margin: float) -> None:
        distance = LpDistance(normalize_embeddings=False)
        super().__init__(pos_margin=0, neg_margin=margin, distance=distance, reducer=MeanReducer())

    def pos_calc(self, distances: Tensor, margin: float) -> Tensor:
        """Return d² / 2."""
        return cast(Tensor, super().pos_calc(distances, margin)).square() / 2

    def neg_calc(self, distances: Tensor, margin: float) -> Tensor:
        """Return max(0, margin − d)² / 2."""
        return cast(Tensor, super().neg_calc(distances, margin)).square() / 2


def supervised_contrastive(temperature: float, mining: Mining, dimension: int) -> MinedLoss:
    """Return the supervised contrastive loss (Khosla et al., "Supervised Contrastive Learning", 2020)."""
    return MinedLoss(SupConLoss(temperature), mining, dimension)


def mined_pair_contrast(margin: float, mining: Mining, dimension: int) -> MinedLoss:
    """Return the contrastive loss of `PairContrast`."""
    return MinedLoss(PairContrast(margin), mining, dimension)
