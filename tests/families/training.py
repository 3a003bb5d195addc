"""Trains a family on rows in this process, as the pipelines do on several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from galleria.learn.examples import Examples
from galleria.learn.family import Context, Family
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe
from galleria.learn.task import Batch, Row, Task
from galleria.learn.training.loop import Report, TrainingState, fit
from galleria.learn.training.sampling import chunks, training_batches


class Run:
    """One training run of `recipe`, over `train` and scored on `validation`."""

    def __init__(
        self, family: Family[Any], recipe: Recipe[Any], train: Sequence[Row], validation: Sequence[Row]
    ) -> None:
        self.family = family
        self.recipe = recipe
        self.train = train
        self.validation = validation
        self.context: Context[Any] = family.context(recipe.model, train)
        self.examples = Examples(family, self.context, 1, raise_rejected)
        torch.manual_seed(recipe.seed)
        self.task = family.build(self.context.config)
        steps = len(train) // recipe.sampling.batch_size * recipe.stopping.epochs
        self.state = TrainingState(self.task, recipe, steps)

    def batches(self, epoch: int) -> Iterator[Batch]:
        generator = np.random.default_rng((self.recipe.seed, epoch))
        groups = training_batches(self.train, self.recipe.sampling, generator)
        return self.examples.stream(groups, (self.recipe.seed, epoch))

    def evaluate(self, task: Task) -> Mapping[str, Score]:
        pairs = [(batch, task.predict(batch)) for batch in self.examples.stream(chunks(self.validation, 32))]
        return self.family.evaluate(pairs, self.context.labels)

    def reports(self) -> Iterator[Report]:
        return fit(self.task, self.recipe, self.batches, self.evaluate, self.state)


def raise_rejected(row: Row, reason: str) -> None:
    raise AssertionError(f"the good row {row['id']} was rejected: {reason}")


def longer(recipe: Recipe[Any], epochs: int, **sampling: Any) -> Recipe[Any]:
    """The recipe with another epoch cap (and sampling), never stopped by convergence."""
    return recipe.model_copy(
        update={
            "stopping": recipe.stopping.model_copy(update={"epochs": epochs, "patience": epochs + 1}),
            "sampling": recipe.sampling.model_copy(update=sampling),
        }
    )
