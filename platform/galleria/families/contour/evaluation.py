"""The scores of `contour`."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from galleria.families.contour.config import CONTOUR, UNCERTAIN
from galleria.families.contour.readout import Readout
from galleria.learn.family import Labels
from galleria.learn.metrics.boundaries import boundary_counts, boundary_scores
from galleria.learn.metrics.score import Score
from galleria.learn.types import Batch, Outputs

READOUT_PICTURES = 16
"""Pictures by which a readout is fitted at a time, after it has scored them."""


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:  # noqa: ARG001
    """Score ODS and OIS F of the contours, on the grid of the outputs: half the input's size.

    An exported network has no layer that draws contours. Its bank is scored by "readout/ODS" and "readout/OIS": a
    linear readout is fitted on all earlier pictures and scored on the next few, so that no picture is scored by a
    readout that saw it. So trained, untrained and other networks can be compared. The first `READOUT_PICTURES`
    pictures are only fitted: they are counted as dropped, as are pictures without annotation.
    """
    prefix, counts, dropped = "", [], 0
    readout: Readout | None = None
    for target, outputs in _in_groups(pairs):
        contour = outputs.get("contour")
        if contour is None:
            prefix, bank = "readout/", outputs["bank"]
            readout = readout or Readout(bank.shape[1] * bank.shape[2])
            contours = readout.predict(bank) if readout.ready else None
            readout.learn(bank, target)
        else:
            contours = contour.float().numpy()
        annotated = (target != UNCERTAIN).flatten(1).any(1).numpy()
        scored = annotated if contours is not None else np.zeros_like(annotated)
        dropped += int((~scored).sum())
        if contours is not None:
            reference = (target == CONTOUR).numpy()
            counts += [boundary_counts(contours[index], reference[index]) for index in scored.nonzero()[0]]
    scores = boundary_scores(np.array(counts, np.int64), dropped)
    return {prefix + name: score for name, score in scores.items()}


def _in_groups(pairs: Iterable[tuple[Batch, Outputs]]) -> Iterator[tuple[torch.Tensor, Outputs]]:
    """Yield targets and outputs of `READOUT_PICTURES` pictures at a time, however many a batch has."""
    for batch, outputs in pairs:
        for start in range(0, len(batch["contour"]), READOUT_PICTURES):
            part = slice(start, start + READOUT_PICTURES)
            yield batch["contour"][part].cpu(), {name: value[part].cpu() for name, value in outputs.items()}
