"""The rows of `garment_gender`: pictures of garments, and whom the garments are made for.

The target is a property of the garment in a shop's catalogue, not of a person who wears it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import ConfigurationError, DataError
from galleria.families.garment_gender.config import TARGETS, GarmentGenderConfig
from galleria.families.garment_gender.contours import ContourSource, completed
from galleria.learn.family import Context, Labels
from galleria.learn.training.augmentation import picture_pixels
from galleria.learn.types import Row

ABOUT_TARGET = "whom the garment is made for, never who wears it: 'female', 'male', or both for unisex"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture of a garment"}),
        pa.field("target", pa.list_(pa.string()), metadata={"about": ABOUT_TARGET}),
        pa.field("source", pa.string(), metadata={"about": "where the picture is from; scored separately"}),
    ]
)
UNISEX = "unisex"


def context(config: GarmentGenderConfig, rows: Iterable[Row]) -> Context[GarmentGenderConfig]:
    """Take labels from the sources, and the contour bundle's hash and options into the config.

    Raises:
        ConfigurationError: the contour network must be trained, and no bundle is named.
    """
    if config.contour == "frozen" and config.source.weights == "none":
        raise ConfigurationError("contour='frozen' needs a contour bundle: name its folder, or use contour='random'")
    source = ContourSource() if config.contour == "none" else completed(config.source)
    if config.contour == "random":
        source = source.model_copy(update={"weights": "none", "hash": ""})
    sources = sorted({row.get("source") or "" for row in rows})
    return Context(config.model_copy(update={"source": source}), {"target": TARGETS, "source": tuple(sources)})


def example(row: Row, context: Context[GarmentGenderConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has.

    `pixels` uint8 `[3, S, S]`; `target` int64: an index into `TARGETS`, or `[2]` of 0 and 1 where several may hold,
    and −1 where none is known; `source` an index or −1.

    Raises:
        DataError: the picture cannot be read, or this network does not have the target.
    """
    config = context.config
    arrays: dict[str, Any] = {"pixels": picture_pixels(row["image"], config.size, config.augmentation, generator)}
    if "target" in row:
        arrays["target"] = _target(row["target"] or (), config.answer == "several")
        names = context.labels["source"]
        source = row.get("source") or ""
        arrays["source"] = np.int64(names.index(source) if source in names else -1)
    return arrays


def present(outputs: Mapping[str, Any], _labels: Labels) -> Mapping[str, Any]:
    """Return whom the garment is made for, "female", "male" or "unisex", and the probability of each, high to low."""
    several = "presence" in outputs
    values = np.asarray(outputs["presence" if several else "probability"], np.float64)
    order = np.argsort(-values, kind="stable")
    unisex = several and bool((values >= 0.5).all())
    return {
        "target": UNISEX if unisex else TARGETS[order[0]],
        "classes": [{"name": TARGETS[index], "probability": float(values[index])} for index in order],
    }


def _target(names: Sequence[str], several: bool) -> NDArray[np.int64] | np.int64:
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise DataError(f"the target {unknown[0]!r} is unknown: use 'female', 'male', or both for unisex")
    if several:
        return np.array([name in names for name in TARGETS] if names else [-1, -1], np.int64)
    if len(set(names)) > 1:
        raise DataError("the target is both, and this network predicts one of two: train it with answer='several'")
    return np.int64(TARGETS.index(names[0]) if names else -1)
