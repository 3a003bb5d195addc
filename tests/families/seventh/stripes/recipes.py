"""The one run."""

from galleria.families.stripes.task import StripesConfig

from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping

__all__ = ["debug"]


def debug() -> Recipe[StripesConfig]:
    return Recipe(
        family="stripes",
        model=StripesConfig(),
        optimization=Optimization(learning_rate=0.05),
        stopping=Stopping(epochs=5, metric="accuracy"),
        sampling=Sampling(batch_size=16),
    )
