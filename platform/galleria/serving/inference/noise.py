"""Pictures that networks are tried on when they are loaded."""

import io

import numpy as np
from PIL import Image


def noise(seed: int) -> bytes:
    """Return a picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64)).save(file, "PNG")
    return file.getvalue()
