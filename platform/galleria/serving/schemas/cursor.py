"""The text of a cursor: where a page of hits ended, for the next page to begin behind it."""

import base64
import binascii
import math
import struct
from typing import NamedTuple

from galleria.index.ranking import Cursor

LAYOUT = struct.Struct("<4sdQH")
"""First bytes of the model's hash, score, key, and number of hits so far."""


class PageCursor(NamedTuple):
    """The end of a page of hits.

    Attributes:
        model: first bytes of the hash of the model, with another of which scores mean something else.
        hit: the last hit of the page.
    """

    model: bytes
    hit: Cursor


def write_cursor(model_hash: str, hit: Cursor) -> str:
    """Return a cursor as the text in a response."""
    return base64.urlsafe_b64encode(LAYOUT.pack(_model(model_hash), *hit)).decode().rstrip("=")


def read_cursor(text: object) -> object:
    """Return the cursor in the text of a request; another value is returned as it is.

    Raises:
        ValueError: it is not the text of a response.
    """
    if not isinstance(text, str):
        return text
    try:
        model, score, key, depth = LAYOUT.unpack(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, struct.error, ValueError):
        model, score, key, depth = b"", math.nan, 0, 0
    if not math.isfinite(score) or depth < 1:
        raise ValueError("is not a valid cursor: send `next` of the last response")
    return PageCursor(model, Cursor(score, key, depth))


def is_of_model(cursor: PageCursor, model_hash: str) -> bool:
    """Return whether a cursor is of a search with this model."""
    return cursor.model == _model(model_hash)


def _model(model_hash: str) -> bytes:
    return model_hash.encode()[:4].ljust(4)
