"""Converts pictures from the colour space that their ICC profile describes to sRGB (ICC.1:2022)."""

import functools
import io

from PIL import Image, ImageCms

MAX_TRANSFORMS = 16
"""Of one process: a catalogue has pictures with few different profiles; one takes up to a megabyte."""

MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""ICC's name of a colour space → mode of Pillow."""

SAME_COLOUR = 2
"""Largest difference, of 255, up to which a profile describes sRGB itself: the usual ones differ by rounding."""


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture by its profile; without one, or with one that does not fit, it stays as it is.

    A picture with transparency keeps it. Intent: perceptual, as browsers and viewers do.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@functools.lru_cache(MAX_TRANSFORMS)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of a mode from a profile to sRGB; None where there is nothing to convert.

    Browsers ignore a damaged profile, too.
    """
    alpha = mode == "RGBA"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if MODES.get(opened.profile.xcolor_space) != ("RGB" if alpha else mode):
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGBA" if alpha else "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode in ("RGB", "RGBA") and _is_identity(transform, mode) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion changes none of 512 colours that are spread over the cube."""
    steps = range(0, 256, 36)
    colours = bytes(value for r in steps for g in steps for b in steps for value in (r, g, b))
    cube = Image.frombytes("RGB", (len(colours) // 3, 1), colours)
    converted = transform.apply(cube.convert(mode)).convert("RGB").tobytes()
    return max(abs(before - after) for before, after in zip(colours, converted, strict=True)) <= SAME_COLOUR
