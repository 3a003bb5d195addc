"""Requests of `benchmarks.serving`, and the images in them."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.load import Request
from benchmarks.served_files import IMAGE_SIZE

LARGE_SIDE = 3000
SMALL_SIDE = 32
COLOUR = (200, 40, 40)
CHUNK_BYTES = 12
"""Of a PNG chunk in addition to its data, and of the last chunk."""


def json_request(path: str, body: Mapping[str, Any]) -> Request:
    """Return a request with a JSON body."""
    return Request(path, json.dumps(body).encode())


def image_request(data: bytes) -> Request:
    """Return a search with an uploaded image."""
    begin = b'--part\r\nContent-Disposition: form-data; name="image"; filename="query"\r\n\r\n'
    return Request("/v1/search", begin + data + b"\r\n--part--\r\n", "multipart/form-data; boundary=part")


def photograph(seed: int) -> bytes:
    """Return a JPEG of about 20 kB."""
    coarse = np.random.default_rng(seed).integers(0, 255, (IMAGE_SIZE // 8, IMAGE_SIZE // 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return _encoded(image, "JPEG", quality=90)


def large_image() -> bytes:
    """Return a PNG that takes long to decode."""
    return _encoded(Image.new("RGB", (LARGE_SIDE, LARGE_SIDE), COLOUR), "PNG")


def padded_image(size: int) -> bytes:
    """Return a small PNG of `size` bytes; readers skip its padding, so that a larger one takes as long to decode."""
    data = _encoded(Image.new("RGB", (SMALL_SIDE, SMALL_SIDE), COLOUR), "PNG")
    padding = b"paDd" + bytes(size - len(data) - CHUNK_BYTES)
    chunk = struct.pack(">I", len(padding) - 4) + padding + struct.pack(">I", zlib.crc32(padding))
    return data[:-CHUNK_BYTES] + chunk + data[-CHUNK_BYTES:]  # before the last chunk


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
