"""Rows: a picture and the name of its pattern."""

import numpy as np
import pyarrow as pa
import torch
from galleria.families.stripes.task import StripesConfig

from galleria.learn.family import Context
from galleria.learn.metrics.classification import classification
from galleria.media.images import decode_image, to_pixels

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("pattern", pa.string()),
    ]
)


def context(config, rows):
    names = tuple(sorted({row["pattern"] for row in rows}))
    return Context(config.model_copy(update={"classes": len(names)}), {"pattern": names})


def example(row, context: Context[StripesConfig], generator):
    made = {"pixels": to_pixels(decode_image(row["image"]), context.config.size)}
    if row.get("pattern"):
        made["label"] = np.int64(context.labels["pattern"].index(row["pattern"]))
    return made


def evaluate(pairs, labels):
    batches, outputs = zip(*pairs, strict=True)
    probabilities = torch.cat([found["probabilities"] for found in outputs]).double().numpy()
    return classification(probabilities, torch.cat([batch["label"] for batch in batches]).numpy())


def present(outputs, labels):
    found = dict(zip(labels["pattern"], np.asarray(outputs["probabilities"]).tolist(), strict=True))
    return {"pattern": max(found, key=found.get), "probabilities": found}
