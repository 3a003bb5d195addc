"""The rows of `contour`: a picture, and a map of the contours in it."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from galleria.errors import DataError
from galleria.families.contour.config import CONTOUR, NONE, UNCERTAIN, ContourConfig
from galleria.learn.family import Context, Labels
from galleria.learn.training.augmentation import Augmentation, augment
from galleria.learn.types import Row
from galleria.media.images import decode_image, fit_square, to_pixels

ABOUT_CONTOUR = "grey picture of the same size: 0 no contour, 255 contour, between uncertain; empty has none annotated"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture"}),
        pa.field("contour", pa.binary(), metadata={"about": ABOUT_CONTOUR}),
    ]
)
COLOURS = ("brightness", "contrast", "saturation", "hue", "grey", "blur", "sharpening", "noise")
"""Augmentations that do not change contours."""


MAP_SIDE = 28
"""Largest side of the map in a response."""


def context(config: ContourConfig, rows: Iterable[Row]) -> Context[ContourConfig]:  # noqa: ARG001
    """Return the config alone: nothing is learnt from the rows."""
    return Context(config)


def example(row: Row, context: Context[ContourConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has.

    `pixels` uint8 `[3, S, S]`; `contour` uint8 `[S / 2, S / 2]` of `NONE`, `CONTOUR` and `UNCERTAIN`, uncertain
    everywhere for a picture without annotation. Random changes move both alike.

    Raises:
        DataError: the picture or its contours cannot be read, or they differ in size.
    """
    config = context.config
    image = decode_image(row["image"] or b"")
    same_draws = copy.deepcopy(generator)  # draws for the contours what `generator` draws for the picture
    arrays = {"pixels": to_pixels(_changed(image, config.size, config.augmentation, generator), config.size)}
    if "contour" not in row:
        return arrays
    if not row["contour"]:
        return {**arrays, "contour": np.full((config.size // 2,) * 2, UNCERTAIN, np.uint8)}
    # Black on white like a drawing: what a change uncovers is white, and so has no contours.
    drawn = ImageOps.invert(decode_image(row["contour"]))
    if drawn.size != image.size:
        raise DataError(
            f"the contours are {drawn.width} × {drawn.height} pixels, their picture {image.width} × {image.height}: "
            "draw them at the size of the picture"
        )
    moves = config.augmentation.model_copy(update=dict.fromkeys(COLOURS, 0.0))
    annotation = 1 - to_pixels(_changed(drawn, config.size, moves, same_draws), config.size)[0] / np.float32(255)
    arrays["contour"] = _target(annotation, config)
    return arrays


def present(outputs: Mapping[str, Any], _labels: Labels) -> Mapping[str, Any]:
    """Summarise the picture's contour features.

    "embedding": the mean of every channel, as a unit vector of 64; "map": mean absolute activity, at most
    28 × 28 and 1 at its peak, to lay over the picture; "levels": the same by level. Where the network gives its fused
    maps, also "fused", `[64, S / 2, S / 2]` as lists.
    """
    import torch
    import torch.nn.functional as F

    bank = torch.as_tensor(np.asarray(outputs["bank"], np.float32))
    levels, channels, height, width = bank.shape
    activity = bank.abs().mean(1)
    side = (min(MAP_SIDE, height), min(MAP_SIDE, width))
    coarse = F.adaptive_avg_pool2d(activity.mean(0)[None], side)[0]
    coarse = coarse / coarse.max().clamp(min=1e-12)
    fused = {"fused": np.asarray(outputs["fused"], np.float32).tolist()} if "fused" in outputs else {}
    return {
        **fused,
        "embedding": F.normalize(bank.mean((2, 3)).flatten(), dim=0).tolist(),
        "map": [[round(value, 4) for value in line] for line in coarse.tolist()],
        "levels": [
            {"channels": channels, "height": height, "width": width, "activity": float(activity[level].mean())}
            for level in range(levels)
        ],
    }


def _changed(image: Image.Image, size: int, limits: Augmentation, generator: np.random.Generator | None) -> Image.Image:
    square = fit_square(image, size)
    return square if generator is None else augment(square, limits, generator)


def _target(annotation: NDArray[np.float32], config: ContourConfig) -> NDArray[np.uint8]:
    """Convert an annotation `[S, S]` in [0, 1] to classes `[S / 2, S / 2]` of its means over four pixels."""
    half = config.size // 2
    annotation = annotation.reshape(half, 2, half, 2).mean((1, 3))
    target = np.full(annotation.shape, UNCERTAIN, np.uint8)
    target[annotation <= config.none_to] = NONE
    target[annotation >= config.contour_from] = CONTOUR
    return target
