"""The rows of `aesthetic_emotion`: a picture with an aesthetics and an emotion label, either may be missing."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.families.aesthetic_emotion.config import HEADS, AestheticEmotionConfig
from galleria.learn.family import Context, Labels
from galleria.learn.training.augmentation import picture_pixels
from galleria.learn.types import Row

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture"}),
        pa.field("aesthetics", pa.string(), metadata={"about": "its class of aesthetics; empty is unknown"}),
        pa.field("score", pa.float64(), metadata={"about": "mean opinion of its aesthetics, as a number"}),
        pa.field("emotion", pa.string(), metadata={"about": "its class of emotion; empty is unknown"}),
        pa.field("source", pa.string(), metadata={"about": "where the picture is from; scored separately"}),
    ]
)


def context(config: AestheticEmotionConfig, rows: Iterable[Row]) -> Context[AestheticEmotionConfig]:
    """Take labels from the classes and sources of the training rows, and the classes' weights in the loss.

    Where rows of every class of aesthetics have a score, also the mean score of each class.

    Raises:
        DataError: a head has fewer than two classes.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*HEADS, "source")}
    scores = defaultdict[str, list[float]](list)
    for row in rows:
        if row.get("aesthetics") and _has_score(row):
            scores[row["aesthetics"]].append(row["score"])
        for name, counter in counts.items():
            counter.update([row[name]] if row.get(name) else [])
    for head in HEADS:
        if len(counts[head]) < 2:
            classes = ", ".join(counts[head]) or "none"
            raise DataError(f"the training rows have one class of {head} or less ({classes}): label two or more")
    labels = {name: tuple(sorted(counter)) for name, counter in counts.items()}
    weights = {head: _weights([counts[head][name] for name in labels[head]], config.balance) for head in HEADS}
    means = [float(np.mean(scores[name])) for name in labels["aesthetics"] if name in scores]
    means = means if len(means) == len(labels["aesthetics"]) else []
    return Context(config.model_copy(update={"class_weights": weights, "class_scores": tuple(means)}), labels)


def example(row: Row, context: Context[AestheticEmotionConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has.

    `pixels` uint8 `[3, S, S]`; `aesthetics` and `emotion` the index of a class, or -1 where it is unknown;
    `score` float64, NaN where it is unknown; `source` an index or -1.

    Raises:
        DataError: the picture cannot be read, or a class is none of those learned.
    """
    config, labels = context.config, context.labels
    arrays: dict[str, Any] = {}
    if "image" in row:
        arrays["pixels"] = picture_pixels(row["image"], config.size, config.augmentation, generator)
    for head in HEADS:
        if head in row:
            arrays[head] = np.int64(_class_index(row[head], labels[head], head))
    if "score" in row and config.class_scores:
        arrays["score"] = np.float64(row["score"] if _has_score(row) else np.nan)
    if "source" in row:
        known = row["source"] in labels["source"]
        arrays["source"] = np.int64(labels["source"].index(row["source"]) if known else -1)
    return arrays


def present(outputs: Mapping[str, Any], labels: Labels) -> Mapping[str, Any]:
    """Return for each head the likeliest class as `label`, and all `classes` by falling probability.

    The head of aesthetics also has the expected `score`, where training rows had scores.
    """
    heads: dict[str, dict[str, Any]] = {}
    for head in HEADS:
        probabilities = np.asarray(outputs[head], np.float64)
        order = np.argsort(-probabilities, kind="stable")
        classes = [{"name": labels[head][index], "probability": float(probabilities[index])} for index in order]
        heads[head] = {"label": classes[0]["name"], "classes": classes}
    if "score" in outputs:
        heads["aesthetics"]["score"] = float(outputs["score"])
    return heads


def _weights(counts: Sequence[int], balance: float) -> tuple[float, ...]:
    """Compute frequency ^ -balance, scaled so that the samples' weights average 1."""
    raw = np.array(counts, np.float64) ** -balance
    weights: NDArray[np.float64] = raw * sum(counts) / (raw @ counts)
    return tuple(weights.tolist())


def _has_score(row: Row) -> bool:
    return row.get("score") is not None and math.isfinite(row["score"])


def _class_index(name: str | None, classes: tuple[str, ...], head: str) -> int:
    if not name:
        return -1
    if name not in classes:
        raise DataError(
            f"the {head} {name!r} is not among the classes of the training rows ({', '.join(classes)}): "
            "use one of them, or leave it empty"
        )
    return classes.index(name)
