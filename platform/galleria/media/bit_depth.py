"""Brings pictures of more than 8 bits a channel to 8 bits, where Pillow would clip them."""

from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
"""Tags of TIFF 6.0: bits a sample, and whether 0 is white (0) or black (1)."""


def scale_transparency(image: Image.Image) -> None:
    """Scale the transparent colour of a PNG with 16 bits a channel, as Pillow scales its pixels but not this."""
    if isinstance(image, PngImagePlugin.PngImageFile) and image.mode == "RGB" and image.tile[0].args == "RGB;16B":
        colour = image.info.get("transparency")
        if isinstance(colour, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in colour)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale values of more than 8 bits, which `convert` would clip. Their one transparent value becomes alpha."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = min(16, tags.get(TIFF_BITS, (16,))[0])
        values = np.asarray(image)
        grey = (values >> (bits - 8)).astype(np.uint8)
        if tags.get(TIFF_PHOTOMETRIC) == 0:  # white is zero
            grey = 255 - grey
        eight = Image.fromarray(grey)
        transparent = image.info.get("transparency")
        if transparent is not None:
            eight.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    elif image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        white = next((white for white in (1.0, 255.0, 65535.0) if values.max() <= white), values.max())
        eight = Image.fromarray((np.clip(values, 0, None) * (255.0 / white)).astype(np.uint8))
    else:
        return image
    eight.info["icc_profile"] = image.info.get("icc_profile")
    return eight
