"""Bundles of classifiers serve probabilities that are scaled by the temperatures of their validation scores."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from galleria.learn.bundle import save_bundle
from galleria.learn.family import Context, load_family
from galleria.learn.metrics.score import Score
from galleria.learn.task import Outputs
from tests.families.every_task import TASKS


def log_odds(outputs: Outputs) -> Mapping[str, Tensor]:
    """Differences of the logits of an output's classes; where several may hold, the logits."""
    names = {"presence", "probability", "probabilities", "aesthetics", "emotion"} & outputs.keys()
    several = {"presence", "probabilities"}
    return {
        name: outputs[name].logit() if name in several else outputs[name].log().diff(dim=1) for name in sorted(names)
    }


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("video_event", {"temperature": 2.0}),
        ("garment_gender", {"temperature": 2.0}),
        ("aesthetic_emotion", {"aesthetics/temperature": 2.0, "emotion/temperature": 2.0}),
    ],
)
def test_bundle_serves_scaled_probabilities(name: str, scores: Mapping[str, float], tmp_path: Path) -> None:
    task, batch = TASKS[name]()
    batch = {**batch, "seconds": torch.zeros(len(batch.get("frame_mask", ())), 1)} if "frames" in batch else batch
    metrics = {key: Score(value, value, value, 9) for key, value in scores.items()}
    family = load_family(name)

    bundle = save_bundle(tmp_path / "bundle", family, Context(task.config), task, metrics, "# Card\n")

    plain, scaled = (log_odds(network.eval().predict(batch)) for network in (task, bundle.task()))
    assert plain.keys() == scaled.keys() != set()
    for key, value in plain.items():
        torch.testing.assert_close(scaled[key], value / 2, rtol=1e-3, atol=1e-4)
    again = save_bundle(tmp_path / "again", family, Context(task.config), task, {}, "# Card\n")
    for key, value in plain.items():  # training goes on unscaled
        torch.testing.assert_close(log_odds(again.task().predict(batch))[key], value)
