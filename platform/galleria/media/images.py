"""Encoded bytes to pixels: the only place that decodes pictures."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from galleria.errors import BrokenMediaError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.limits import LIMITS, Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read, decided by content. Vector and document formats run programs and stay out."""


def decode_image(data: bytes, limits: Limits = LIMITS) -> Image.Image:
    """Decode one picture to RGB: upright (EXIF), first frame, transparency laid on white.

    Raises:
        UnsupportedMediaError: the bytes are not one of `FORMATS`.
        MediaTooLargeError: more bytes or pixels than `limits` allow; pixels are checked before decoding.
        BrokenMediaError: empty, truncated or damaged bytes.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata.
        warnings.simplefilter("ignore")
        image = _open(data, limits)
        try:
            image.load()
            return _on_white(ImageOps.exif_transpose(image))
        except Exception as error:
            raise _broken(error) from error


def media_type(data: bytes, limits: Limits = LIMITS) -> str:
    """Media type of a picture ("image/png"), by its header alone: cheap, and good enough to refuse most bad bytes.

    Raises:
        UnsupportedMediaError, MediaTooLargeError, BrokenMediaError: as `decode_image`, where the header shows it.
    """
    found = _open(data, limits).format or ""
    # Phones write JPEG files with a second picture behind the first, which browsers know as JPEG only.
    return "image/jpeg" if found == "MPO" else Image.MIME[found]


def to_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB picture → uint8 `[3, size, size]`, fitted into a white square so that nothing is cut off or stretched."""
    if image.size != (size, size):
        scale = size / max(image.size)
        fitted = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
            Image.Resampling.BICUBIC,
            reducing_gap=3.0,
        )
        image = Image.new("RGB", (size, size), (255, 255, 255))
        image.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise BrokenMediaError("the picture is empty (0 bytes): send the bytes of a picture file")
    if len(data) > limits.image_bytes:
        raise MediaTooLargeError(
            f"the picture has {len(data):,} bytes, over the limit of {limits.image_bytes:,}: shrink it first"
        )
    with warnings.catch_warnings():
        # Pillow warns of its own size limit; ours is checked below, on the header.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise UnsupportedMediaError(
                f"the content is not a picture of a known format: send one of {', '.join(FORMATS)}"
            ) from error
        except Exception as error:  # Pillow's readers raise almost anything on damaged headers
            raise _broken(error) from error
        width, height = image.size
        if width * height > limits.image_pixels:
            raise MediaTooLargeError(
                f"the picture is {width} × {height} pixels, over the limit of {limits.image_pixels:,} "
                "pixels: shrink it first"
            )
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16- and 32-bit grey: convert() would clip instead of scaling.
        values = np.asarray(image, dtype=np.float64)
        top = max(float(values.max()), 255.0)
        top = 65535.0 if 255.0 < top <= 65535.0 else top
        image = Image.fromarray((np.clip(values, 0, None) * (255.0 / top)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        ground.alpha_composite(image)
        image = ground
    return image.convert("RGB")


def _broken(error: Exception) -> BrokenMediaError:
    return BrokenMediaError(f"the picture is damaged or cut short ({error}): send the whole file again")
