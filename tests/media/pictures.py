"""One drawn picture in every guise that a file can have."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener

WIDTH, HEIGHT = 64, 48
"""Not square, so that a wrong turn shows."""

register_heif_opener()


def picture() -> Image.Image:
    """Smooth colours (a lossy format hardly changes them) with one dark corner (a wrong turn does)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    canvas = np.stack([60 + columns * 3, 60 + rows * 4, 255 - columns * 2 - rows], 2).astype(np.uint8)
    canvas[:16, :16] = 20
    return Image.fromarray(canvas)


def grey() -> Image.Image:
    return picture().convert("L")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def every_format() -> dict[str, bytes]:
    """The same picture in every format that is read, and in the ways that each can be packed."""
    image = picture()
    palette = image.quantize(255)
    return {
        "jpeg": encoded(image, "JPEG", quality=95),
        "jpeg progressive": encoded(image, "JPEG", quality=95, progressive=True),
        "png": encoded(image, "PNG"),
        "webp": encoded(image, "WEBP", quality=95),
        "webp lossless": encoded(image, "WEBP", lossless=True),
        "avif": encoded(image, "AVIF", quality=95),
        "heic": encoded(image, "HEIF", quality=95),
        "gif": encoded(palette, "GIF"),
        "bmp": encoded(image, "BMP"),
        "tiff": encoded(image, "TIFF"),
        "tiff lzw": encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
    }


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two RGB pictures of one size, in grey levels."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return float(np.abs(values(one) - values(other)).mean())


def values(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, np.float64)
