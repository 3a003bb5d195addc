"""Which pairs contrastive terms compare: the options, without pytorch-metric-learning, which is slow to import."""

from typing import Literal

from pydantic import Field

from galleria.learn.recipe import Frozen


class Mining(Frozen):
    """Pairs of the contrastive term, of a batch (of all workers) and of a memory. By default all pairs of a batch."""

    miner: Literal["none", "multi_similarity", "batch_hard", "pair_margin"] = Field(
        "none", description="pytorch-metric-learning's miner of informative pairs"
    )
    memory_size: int = Field(
        0, ge=0, description="cross-batch memory: rows of earlier steps that a batch is compared with; 0 is off"
    )

    @property
    def is_on(self) -> bool:
        """Return whether pairs are other than all of a batch."""
        return self.miner != "none" or self.memory_size > 0
