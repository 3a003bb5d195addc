"""A recipe: a training run as one frozen value. Recipes are functions in `families/*/recipes.py`."""

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

C = TypeVar("C", bound=BaseModel)


class Frozen(BaseModel):
    """Base of all configuration: immutable, and a misspelt option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimization(Frozen):
    """AdamW with a linear warm-up and a cosine to zero.

    `rates` multiplies `learning_rate` for a parameter group of the task; 0 keeps the group as it is.
    """

    learning_rate: float = Field(1e-3, gt=0)
    rates: Mapping[str, NonNegativeFloat] = Field(default_factory=dict)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps")
    clip_norm: float = Field(1.0, gt=0, description="largest global gradient norm")
    average_decay: float = Field(0.0, ge=0, lt=1, description="exponential moving average of weights; 0 is off")
    sync_batch_norm: bool = Field(
        False, description="with several workers, statistics of BatchNorm over the rows of all; on GPUs only"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 applies on GPUs only")


class Stopping(Frozen):
    """When training ends: at the epoch cap, or when the monitored score no longer improves (convergence)."""

    epochs: int = Field(gt=0)
    metric: str = Field(description="validation score to monitor; the best epoch's weights are kept")
    patience: int = Field(5, gt=0, description="epochs without improvement")
    min_delta: float = Field(1e-4, ge=0, description="smallest change that counts as improvement")


class Sampling(Frozen):
    """How rows become batches.

    With `group`, a batch holds up to `group_size` rows that share the value of that column. With `views`, a batch holds
    that many copies of each row, each augmented in its own way.
    `buffer` rows are shuffled at a time: memory against randomness. A split that fits in it is read only once.
    Encoded pictures are streamed; `threads` of the training worker decode them, or, with `decode_on="cluster"`, CPUs of
    any node, some batches ahead: for workers whose own CPUs cannot keep their GPU busy. The batches are the same.
    """

    batch_size: int = Field(gt=0)
    group: str | None = None
    group_size: int = Field(1, gt=0)
    views: int = Field(1, gt=0, description="at least 2 where each group has one row, else it had no positive pairs")
    buffer: int = Field(20_000, gt=0)
    threads: int = Field(2, gt=0)
    decode_on: Literal["worker", "cluster"] = "worker"


class Recipe(Frozen, Generic[C]):
    """One training run of a family."""

    family: str
    model: C
    optimization: Optimization
    stopping: Stopping
    sampling: Sampling
    seed: int = 0
