"""A data set as HTML pages that need no other file: what a check found, and rows as pictures."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from PIL import Image

from galleria.errors import DataError
from galleria.learn.family import Family
from galleria.media.images import decode_image
from galleria.media.videos import sample_frames
from galleria.pipelines.data_check.check import DataReport
from galleria.pipelines.data_check.samples import FRAME_RATE, picture_content
from galleria.pipelines.readers import ReadOptions, read_parts
from galleria.report.templates import render

SIDE = 160
"""Of a thumbnail, in pixels."""

SHOWN_FIELDS = (
    "split",
    "product_id",
    "source",
    "role",
    "text",
    "title",
    "category",
    "emotion",
    "aesthetics",
    "events",
    "target",
)


def check_page(report: DataReport, family: Family[Any], options: ReadOptions) -> str:
    """Render what a check found, with the pictures of its examples, which are read a second time."""
    ids = {name for finding in report.findings for group in finding.examples for name in group}
    rows = (row for row in _rows(report.path, family, options) if row["id"] in ids)
    pictures = {row["id"]: _thumbnail(row) for row in rows}
    return render("check_page.html", report=report, pictures=pictures)


def preview_page(path: str, family: Family[Any], options: ReadOptions, count: int) -> tuple[str, int]:
    """Render the first rows of a data set as pictures with their fields; return how many there are, too.

    Raises:
        DataError: the files cannot be read.
    """
    rows = [_shown(row) for row in islice(_rows(path, family, options), count)]
    return render("preview_page.html", path=path, family=family.name, rows=rows), len(rows)


def _rows(path: str, family: Family[Any], options: ReadOptions) -> Iterator[Mapping[str, Any]]:
    parts: Iterable[pa.Table] = read_parts(path, family, options, lambda _: None)
    for part in parts:
        yield from part.to_pylist()


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: _text(row[name]) for name in SHOWN_FIELDS if row.get(name)}
    return {"id": row["id"], "fields": fields, "picture": _thumbnail(row)}


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else " / ".join(value)


def _thumbnail(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a picture as a data URI, or why there is none."""
    try:
        image = _frame(row["video"]) if "video" in row else decode_image(picture_content(row), fit=SIDE)
    except DataError as error:
        return {"error": str(error)}
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return {"uri": f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"}


def _frame(video: str) -> Image.Image:
    return Image.fromarray(sample_frames(video, FRAME_RATE, 1, SIDE).pixels[0].transpose(1, 2, 0))
