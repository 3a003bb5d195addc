"""The scores of the family."""

from collections.abc import Iterable, Mapping

import torch

from galleria.learn.family import Labels
from galleria.learn.metrics.classification import classification
from galleria.learn.metrics.score import Score
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score the predictions of a split."""
    batches, outputs = zip(*pairs, strict=True)
    probabilities = torch.cat([output["probabilities"] for output in outputs]).double().numpy()
    return classification(probabilities, torch.cat([batch["label"] for batch in batches]).numpy())
