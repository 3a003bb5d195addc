"""The runs of the family."""

from galleria.families.stripes.config import StripesConfig

from galleria.learn.recipe import Optimization, Recipe, Sampling, Stopping

__all__ = ["debug"]


def debug() -> Recipe[StripesConfig]:
    """Train in seconds on one core; the contract tests run it."""
    return Recipe(
        family="stripes",
        model=StripesConfig(),
        optimization=Optimization(learning_rate=0.05),
        stopping=Stopping(epochs=5, metric="accuracy"),
        sampling=Sampling(batch_size=16),
    )
