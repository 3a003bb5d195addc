"""Fingerprints of pictures that show what is nearly the same, without a model.

The difference hash compares each pixel of a small grey picture with its neighbor: it stays where a picture is resized,
compressed or brightened (N. Krawetz, "Kind of like that", 2013). Many flags have the same: colours tell them apart.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
COLOUR_SIDE = 8
MIN_STEP = 4
"""Difference of two grey levels, of 255, that counts: compression makes smaller ones out of nothing."""


class Fingerprint(NamedTuple):
    """What a picture looks like.

    Attributes:
        bits: its difference hash, uint8 `[32]`; all zero where there are only fine lines.
        colours: mean colours of its parts, uint8 `[192]`.
    """

    bits: NDArray[np.uint8]
    colours: NDArray[np.uint8]


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return the fingerprint of an RGB picture."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    colours = np.asarray(image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))
    return Fingerprint(np.packbits(grey[:, 1:] - grey[:, :-1] > MIN_STEP), colours.reshape(-1))
