"""The scores of `aesthetic_emotion`."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from galleria.families.aesthetic_emotion.config import HEADS
from galleria.learn.evaluation import collect, rows_by_source
from galleria.learn.family import Labels
from galleria.learn.metrics.classification import classification
from galleria.learn.metrics.rank_correlation import spearman
from galleria.learn.metrics.score import Score
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score each head that has labels here, "aesthetics/…" and "emotion/…", and balanced accuracy by source.

    "balanced_accuracy" is the mean of the heads'; so are the ends of its interval, which is at least as wide as
    one from resampling both heads together. Rows with a score give "aesthetics/SRCC", Spearman's rank correlation
    with the expected score.
    """
    renamed = ((batch, {f"predicted_{name}": value for name, value in outputs.items()}) for batch, outputs in pairs)
    table = {name: column.numpy() for name, column in collect(renamed, (*HEADS, "score", "source")).items()}
    scores: dict[str, Score] = {}
    heads = [head for head in HEADS if head in table and (table[head] >= 0).any()]
    for head in heads:
        known, probabilities = table[head], table[f"predicted_{head}"].astype(np.float64)
        scores |= {f"{head}/{name}": score for name, score in classification(probabilities, known).items()}
        for source, rows in rows_by_source(table["source"], labels["source"]) if "source" in table else ():
            if (known[rows] >= 0).any():
                source_scores = classification(probabilities[rows], known[rows])
                scores[f"{source}/{head}/balanced_accuracy"] = source_scores["balanced_accuracy"]
    if heads:
        scores["balanced_accuracy"] = _mean([scores[f"{head}/balanced_accuracy"] for head in heads])
    if "score" in table and not np.isnan(table["score"]).all():
        scores["aesthetics/SRCC"] = spearman(table["predicted_score"].astype(np.float64), table["score"])
    return scores


def _mean(scores: Sequence[Score]) -> Score:
    value, low, high = (float(np.mean([getattr(score, end) for score in scores])) for end in ("value", "low", "high"))
    return Score(value, low, high, max(score.count for score in scores), min(score.dropped for score in scores))
