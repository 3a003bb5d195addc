"""Rows of the family: a picture and the name of its pattern."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from galleria.families.stripes.config import StripesConfig

from galleria.learn.family import Context, Labels
from galleria.learn.types import Row
from galleria.media.images import decode_image, to_pixels

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("pattern", pa.string()),
    ]
)


def context(config: StripesConfig, rows: Iterable[Row]) -> Context[StripesConfig]:
    """Learn the names of the patterns from the training rows, and complete the config with their number."""
    names = tuple(sorted({row["pattern"] for row in rows}))
    return Context(config.model_copy(update={"classes": len(names)}), {"pattern": names})


def example(row: Row, context: Context[StripesConfig], generator: np.random.Generator | None) -> dict[str, Any]:
    """Turn a row into arrays. A query has no `pattern`. With a generator this is the place to augment."""
    arrays = {"pixels": to_pixels(decode_image(row["image"]), context.config.size)}
    if row.get("pattern"):
        arrays["label"] = np.int64(context.labels["pattern"].index(row["pattern"]))
    return arrays


def present(outputs: Mapping[str, Any], labels: Labels) -> Mapping[str, Any]:
    """Turn the outputs for one row into what a response holds."""
    probabilities = dict(zip(labels["pattern"], np.asarray(outputs["probabilities"]).tolist(), strict=True))
    return {"pattern": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}
