"""Files in base64, decoded in slices: no call holds Python's interpreter lock for long, so that others are answered."""

import base64
import io
from collections.abc import Iterator
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from galleria.serving.schemas.problems import ProblemError

BASE64_SLICE = 1 << 18
"""Characters that are decoded in one call; a multiple of 4."""

MAX_URI_HEAD = 256
"""Characters of a data URI before its base64."""


class EncodedFile:
    """A long text of a request's body that is base64, or a data URI, where a file is expected.

    It is decoded from the body itself. A parser would make a copy of it first, in one call.

    Args:
        body: JSON.
        start: of the text in it.
        end: of the text in it.
    """

    def __init__(self, body: bytes | bytearray, start: int, end: int) -> None:
        self._body = body
        self._start = start
        self._end = end

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a field that such a file may be sent in, as a text."""
        text = core_schema.str_schema()
        return core_schema.json_or_python_schema(json_schema=text, python_schema=core_schema.is_instance_schema(cls))

    def startswith(self, prefix: str) -> bool:
        """Return whether it begins with a text."""
        return self._body.startswith(prefix.encode(), self._start, self._end)

    def text(self) -> str:
        """Return it as text.

        Raises:
            ProblemError: 400, it is not UTF-8.
        """
        try:
            return self._body[self._start : self._end].decode()
        except UnicodeDecodeError as error:
            raise ProblemError(
                400, "malformed-request", f"the body is not JSON: a text is not UTF-8: {error}"
            ) from error

    def decode(self) -> bytes:
        """Return the file. Raises as `decode_base64`."""
        start = self._start
        if self.startswith("data:"):
            start = self._body.find(b",", start, min(self._end, start + MAX_URI_HEAD)) + 1
            if not start:
                raise ValueError("it is a data URI without a comma")
        offsets = range(start, self._end, BASE64_SLICE)
        return _join(self._body[offset : min(offset + BASE64_SLICE, self._end)] for offset in offsets)


def decode_base64(text: str | EncodedFile) -> bytes:
    """Decode base64.

    Raises:
        ValueError: it is not base64.
    """
    if isinstance(text, EncodedFile):
        return text.decode()
    return _join(text[start : start + BASE64_SLICE].encode() for start in range(0, len(text), BASE64_SLICE))


def _join(slices: Iterator[bytes | bytearray]) -> bytes:
    decoded = io.BytesIO()  # grows without a copy, and gives its bytes away without one
    padded = False
    for characters in slices:
        if padded:
            raise ValueError("there is padding before the end")
        decoded.write(base64.b64decode(characters, validate=True))
        padded = characters.endswith(b"=")
    return decoded.getvalue()
