"""The scores of `garment_gender`."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from galleria.families.garment_gender.config import TARGETS
from galleria.learn.evaluation import collect, rows_by_source
from galleria.learn.family import Labels
from galleria.learn.metrics.calibration import TEMPERATURE
from galleria.learn.metrics.classification import classification
from galleria.learn.metrics.multi_label import multi_label
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score classification over all and for each source; several targets by `several_scores`."""
    table = {name: column.numpy() for name, column in collect(pairs, ("target", "source")).items()}
    if not table:
        return {}
    score, output = (several_scores, "presence") if "presence" in table else (classification, "probability")
    values, targets = table[output].astype(np.float64), table["target"]
    scores = dict(score(values, targets))
    for source, rows in rows_by_source(table["source"], labels["source"]):
        own = score(values[rows], targets[rows])
        scores |= {f"{source}/{name}": value for name, value in own.items() if name != TEMPERATURE}
    return scores


def several_scores(presence: NDArray[np.float64], targets: NDArray[np.int64]) -> Mapping[str, Score]:
    """Score predictions where several targets may hold, each with its 95 % percentile-bootstrap interval over samples.

    "female/accuracy" and "male/accuracy" at a probability of ½, and those of `multi_label`.

    Args:
        presence: `[N, 2]` probabilities.
        targets: `[N, 2]` of 0 and 1; a sample with −1 has none: it is left out and counted.
    """
    known: NDArray[np.bool_] = targets.min(1) >= 0
    correct = np.where(known[:, None], np.equal(presence >= 0.5, targets), np.nan)
    accuracies = {f"{name}/accuracy": bootstrap(correct[:, index]) for index, name in enumerate(TARGETS)}
    return accuracies | dict(multi_label(presence, targets.astype(np.float64), TARGETS))
