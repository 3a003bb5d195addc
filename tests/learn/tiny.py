"""The smallest task there is: a line through points, in two parameter groups."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Frozen, Optimization, Recipe, Sampling, Stopping
from galleria.learn.task import Batch, Outputs, Signature, Task
from galleria.learn.training.loop import Report, TrainingState, fit


class LineConfig(Frozen):
    noise: float = 0.0


class Line(Task):
    """y = slope · x + offset; with noise, a random share of the slope is dropped as in a real network."""

    config: LineConfig

    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        self.slope = nn.Linear(1, 1, bias=False)
        self.offset = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.slope.weight)

    def forward(self, batch: Batch) -> Outputs:
        error = self.predict(batch)["y"] - batch["y"]
        kept = nn.functional.dropout(error, self.config.noise, self.training)
        return {"loss": kept.square().mean(), "bias": error.mean(), "errors": error}

    def predict(self, batch: Batch) -> Outputs:
        return {"y": self.slope(batch["x"][:, None]).squeeze(1) + self.offset}

    def signature(self) -> Signature:
        return Signature(inputs=("x",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"slope": [self.slope.weight], "offset": [self.offset]}


def points(epoch: int = 0, batches: int = 5) -> Iterator[Batch]:
    """Points on y = 2x + 1, others in every epoch."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(batches):
        x = torch.rand(8, generator=generator)
        yield {"x": x, "y": 2 * x + 1}


def score(value: float) -> Score:
    return Score(value, value, value, 1)


def recipe(epochs: int = 3, patience: int = 5, min_delta: float = 1e-4, noise: float = 0.0, **options: Any) -> Recipe:
    return Recipe[LineConfig](
        family="line",
        model=LineConfig(noise=noise),
        optimization=Optimization(**{"learning_rate": 0.1, "weight_decay": 0.0, **options}),
        stopping=Stopping(epochs=epochs, metric="good", patience=patience, min_delta=min_delta),
        sampling=Sampling(batch_size=8),
    )


def run(
    chosen: Recipe,
    scores: Sequence[float] = (),
    batches: Callable[[int], Iterable[Batch]] = points,
    task: Task | None = None,
) -> tuple[TrainingState, list[Report]]:
    """Train a fresh line; the monitored score of each epoch is passed in, or else is minus the slope's error.

    Before the first step the score is 0.
    """
    task = task or Line(chosen.model)
    state = TrainingState(task, chosen, total_steps=5 * chosen.stopping.epochs)
    given = iter([0.0, *scores])

    def evaluate(evaluated: Task) -> Mapping[str, Score]:
        slope: Tensor = evaluated.slope.weight.detach()
        return {"good": score(next(given) if scores else -abs(slope.item() - 2))}

    return state, list(fit(task, chosen, batches, evaluate, state))
