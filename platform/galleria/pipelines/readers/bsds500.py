"""Reads BSDS500: pictures in `images/train`, what people drew in `groundTruth/train`, and other splits alike."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from galleria.errors import DataError
from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree

MARKS = ("images", "groundTruth")
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read_bsds500(tree: Tree) -> Iterator[Row]:
    """Yield a row for each picture. Its contour is 255 where all drew one, 0 where nobody did, else between."""
    for folder, split in SPLITS.items():
        for name in tree.below(f"images/{folder}"):
            if name.lower().endswith(".jpg"):
                stem = name.rsplit("/", 1)[1][: -len(".jpg")]
                contour = _contour(tree, f"groundTruth/{folder}/{stem}.mat")
                yield {"id": stem, "image": tree.path(name), "contour": contour, "split": split}


def _contour(tree: Tree, name: str) -> bytes | None:
    import scipy.io

    if not tree.has(name):
        return None
    try:
        drawn = scipy.io.loadmat(io.BytesIO(tree.read(name)))["groundTruth"]
        boundaries = [person[0, 0]["Boundaries"] for person in drawn.ravel()]
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise DataError(f"{tree.path(name)} is not a ground truth of BSDS500 ({error}): download it again") from error
    encoded = io.BytesIO()
    Image.fromarray(np.round(np.mean(boundaries, axis=0) * 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()
