"""Boxes in pictures: a row that has one is about the part of its picture inside."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from galleria.errors import DataError
from galleria.media.images import decode_image

COLUMN = "crop"
CROP = pa.struct([("box", pa.list_(pa.float64())), ("is_relative", pa.bool_())])
"""Left, top, right and bottom: in pixels, or in parts of the picture's sides."""
JPEG_QUALITY = 95


def crop(box: Sequence[float], is_relative: bool = False) -> dict[str, Any]:
    """Return a value of the column."""
    return {"box": list(box), "is_relative": is_relative}


def cut(content: bytes, value: Mapping[str, Any]) -> bytes:
    """Return the part of a picture inside a box: JPEG of a JPEG, otherwise PNG.

    Raises:
        DataError: the picture cannot be decoded, or no pixel is inside.
    """
    picture = decode_image(content)
    width, height = picture.size if value["is_relative"] else (1, 1)
    left, top, right, bottom = (
        round(side * scale) for side, scale in zip(value["box"], (width, height, width, height), strict=True)
    )
    left, top, right, bottom = max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom)
    if left >= right or top >= bottom:
        raise DataError(
            f"the box {value['box']} holds no pixel of a picture of {picture.width} × {picture.height}: fix it"
        )
    encoded = io.BytesIO()
    part = picture.crop((left, top, right, bottom))
    if content.startswith(b"\xff\xd8"):
        part.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        part.save(encoded, "PNG")
    return encoded.getvalue()
