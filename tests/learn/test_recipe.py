"""A recipe rejects values that make no sense before anything runs."""

import pytest
from pydantic import ValidationError

from galleria.learn.recipe import Optimization, Sampling, Stopping
from tests.learn.tiny import recipe


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (Optimization, {"learning_rate": 0}),
        (Optimization, {"rates": {"backbone": -0.1}}),
        (Optimization, {"warmup": 1}),
        (Optimization, {"clip_norm": 0}),
        (Optimization, {"average_decay": 1}),
        (Optimization, {"precision": "float16"}),
        (Optimization, {"lerning_rate": 1e-3}),
        (Stopping, {"epochs": 0, "metric": "R@1"}),
        (Stopping, {"epochs": 1}),
        (Stopping, {"epochs": 1, "metric": "R@1", "patience": 0}),
        (Stopping, {"epochs": 1, "metric": "R@1", "min_delta": -1}),
        (Sampling, {"batch_size": 0}),
        (Sampling, {"batch_size": 1, "group_size": 0}),
        (Sampling, {"batch_size": 1, "buffer": 0}),
        (Sampling, {"batch_size": 1, "threads": 0}),
    ],
)
def test_recipe_rejects_invalid_value(part, options):
    with pytest.raises(ValidationError):
        part(**options)


def test_defaults_match_documentation():
    assert (Optimization().learning_rate, Optimization().warmup, Optimization().average_decay) == (1e-3, 0.05, 0)
    assert (Stopping(epochs=1, metric="x").patience, Stopping(epochs=1, metric="x").min_delta) == (5, 1e-4)


def test_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        recipe().optimization.learning_rate = 1.0
