"""What a check knows of each row and its picture."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from galleria.errors import DataError
from galleria.media.fingerprint import Fingerprint, fingerprint
from galleria.media.images import decode_image
from galleria.media.videos import sample_frames
from galleria.pipelines.readers import crops
from galleria.pipelines.readers.files import read_file

FIT = 64
"""Side of the square that pictures are decoded for: no smaller one is needed, and JPEG is decoded faster for it."""

MAX_BLANK_RANGE = 8
"""Difference of the brightest and the darkest value of a channel, of 255, in a picture of one colour."""

LABELS = ("category", "emotion", "aesthetics", "events", "target")
"""Columns of the families that hold classes."""

FRAME_RATE = 1.0
"""Frames a second that the recipe for videos samples; one of them is decoded, to see that the file can be read."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture's file shows.

    Attributes:
        side: the shorter one in pixels, of a large JPEG at a reduced scale.
        digest: of the bytes; the same for the same file.
        fingerprint: of what is seen.
        is_blank: whether it shows one colour.
        error: why it cannot be used, or "".
    """

    side: int = 0
    digest: bytes = b""
    fingerprint: Fingerprint | None = None
    is_blank: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row.

    Attributes:
        id: the row's id.
        split: train, validation or test.
        product: id of its product, or "".
        source: of its picture, or "".
        has_text: whether there is a text; None where the family reads none.
        labels: name of a column of classes → the row's classes.
        picture: its picture, or a frame of its video.
    """

    id: str
    split: str
    product: str
    source: str
    has_text: bool | None
    labels: Mapping[str, tuple[str, ...]]
    picture: Picture


def read_samples(parts: Iterable[pa.Table], reads_text: bool) -> Iterator[Sample]:
    """Yield a sample for each row of `read_parts`; each picture is decoded once.

    Args:
        parts: the rows.
        reads_text: whether the family reads texts.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in parts:
            rows = part.to_pylist()
            for row, picture in zip(rows, pool.map(_picture_of, rows), strict=True):
                yield _sample(row, picture, reads_text)


def picture_content(row: Mapping[str, Any]) -> bytes:
    """Return the bytes of a row's picture, or of the part of it that its box holds.

    Raises:
        DataError: it cannot be read.
    """
    file = row["image"] or {"bytes": None, "path": None}
    content = file["bytes"]
    if content is None:
        if file["path"] is None:
            raise DataError("the row has no picture: fill the column in")
        content = read_file(file["path"])
    box = row.get(crops.COLUMN)
    return content if box is None else crops.cut(content, box)


def _picture_of(row: Mapping[str, Any]) -> Picture:
    try:
        return _video(row["video"]) if "video" in row else _picture(picture_content(row))
    except DataError as error:
        return Picture(error=str(error))


def _picture(content: bytes) -> Picture:
    image = decode_image(content, fit=FIT)
    extrema: Any = image.getextrema()  # a pair for each channel
    is_blank = all(high - low <= MAX_BLANK_RANGE for low, high in extrema)
    return Picture(min(image.size), hashlib.sha256(content).digest(), fingerprint(image), is_blank)


def _video(path: str | None) -> Picture:
    if not path:
        raise DataError("the row has no video: fill the column in")
    sample_frames(path, FRAME_RATE, 1, FIT)
    return Picture()


def _sample(row: Mapping[str, Any], picture: Picture, reads_text: bool) -> Sample:
    labels = {name: _classes(row.get(name)) for name in LABELS if name in row}
    return Sample(
        id=row["id"] or "",
        split=row["split"],
        product=row.get("product_id") or "",
        source=row.get("source") or "",
        has_text=bool((row.get("text") or "").strip()) if reads_text else None,
        labels=labels,
        picture=picture,
    )


def _classes(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else (value,) if value else ()
