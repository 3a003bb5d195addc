"""Bounds JSON while it arrives, before anything is built from it, and builds long lists one element at a time.

A parser builds everything that it is sent: a body of 80 MB may hold 27 million objects. It also holds Python's
interpreter lock meanwhile, so that nothing else is answered.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from galleria.serving.schemas.encoded import EncodedFile
from galleria.serving.schemas.problems import ProblemError, invalid_field

MAX_DEPTH = 64
"""Lists and objects around a value."""

LONG_TEXT = 1 << 20
"""Bytes of a text from which on it is not parsed with the others: files have as many."""

FILE_FIELDS = ("image", "video", "input", "data")
"""Fields of requests with files in base64; of the last two, lists."""

ITEM_DEPTH = 2
"""Lists and objects around an element of a list in the outermost object."""

ESCAPE = re.compile(rb"\\.", re.DOTALL)
QUOTE, COMMA, COLON, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = b'",:[]{}'

COUNTED = np.zeros(256, np.int64)
"""1 for the characters before or in front of each value and each name of a field."""
COUNTED[[COMMA, COLON, OPEN_LIST, OPEN_OBJECT]] = 1

STEP = np.zeros(256, np.int32)
"""Change of the depth at a character."""
STEP[[OPEN_LIST, OPEN_OBJECT]] = 1
STEP[[CLOSE_LIST, CLOSE_OBJECT]] = -1

STRUCTURAL = (COUNTED + np.abs(STEP)).astype(bool)


class JsonLimits(NamedTuple):
    """Bounds on JSON.

    Attributes:
        values: numbers, texts, lists, objects and names of fields in all.
        item_values: the same in one element of a list in the outermost object, or outside of such lists.
    """

    values: int
    item_values: int


class JsonScanner:
    """Follows the structure of JSON in the pieces in which it arrives, until its first syntax error.

    Args:
        limits: bounds.
        long_text: bytes of a text from which on it is among `long_texts`.

    Attributes:
        values: numbers, texts, lists, objects and names of fields so far.
        long_texts: start and end of texts that arrived in several pieces, are long, and have no escapes.
    """

    def __init__(self, limits: JsonLimits, long_text: int = LONG_TEXT) -> None:
        self._limits = limits
        self._long_text = long_text
        self._length = 0
        self._in_text = False
        self._escaped = False  # the last piece ends with a backslash, which escapes the next byte
        self._depth = 0
        self._in_list = False  # the container around elements at `ITEM_DEPTH` is a list
        self._item_start = 0  # `values` at the last edge
        self._edges: list[NDArray[np.int64]] = []
        self._ends: list[NDArray[np.bool_]] = []
        self._text_start = -1  # of the text that the last piece ends in, unless it has an escape
        self.long_texts: list[tuple[int, int]] = []
        self.values = 1

    def feed(self, piece: bytes) -> None:
        """Scan the next piece.

        Raises:
            ProblemError: 413, it has more values than a limit; 400, it is nested too deeply.
        """
        if not piece:  # what follows the JSON of a body
            return
        offset, self._length = self._length, self._length + len(piece)
        text = self._without_escapes(piece)
        if b"\\" in piece:
            self._text_start = -1
        if self._in_text and QUOTE not in text:  # most of a picture
            return
        if self._in_text and 0 <= self._text_start <= (end := offset + text.index(QUOTE)) - self._long_text:
            self.long_texts.append((self._text_start, end))
        codes = np.frombuffer(text, np.uint8)
        in_text = np.cumsum(codes == QUOTE, dtype=np.uint8) + np.uint8(self._in_text) & 1
        self._in_text = bool(in_text[-1])
        if self._in_text:
            start = text.rindex(QUOTE) + 1
            self._text_start = -1 if b"\\" in piece[start:] else offset + start
        positions = np.flatnonzero(STRUCTURAL[codes] & (in_text == 0))
        if len(positions):
            self._follow(codes[positions], positions + offset)

    def items(self) -> list[tuple[int, int]]:
        """Return start and end of each element of the lists in the outermost object."""
        if not self._edges:
            return []
        edges, ends = np.concatenate(self._edges), np.concatenate(self._ends)[:-1]
        return list(zip((edges[:-1][~ends] + 1).tolist(), edges[1:][~ends].tolist(), strict=True))

    def _without_escapes(self, piece: bytes) -> bytes:
        """Return a piece of the same length in which no quotation mark is escaped."""
        if self._escaped:
            piece = b"_" + piece[1:]
        self._escaped = False
        if b"\\" in piece:
            piece = ESCAPE.sub(b"__", piece)
            self._escaped = piece.endswith(b"\\")
        return piece

    def _follow(self, codes: NDArray[np.uint8], positions: NDArray[np.int64]) -> None:
        """Follow structural characters outside of texts, and where they are."""
        depths = np.cumsum(STEP[codes]) + self._depth
        if depths.max() > MAX_DEPTH:
            raise ProblemError(400, "malformed-request", f"the body is not JSON: it is nested deeper than {MAX_DEPTH}")
        values = np.cumsum(COUNTED[codes]) + self.values
        # Edges of elements: where a list begins, where it ends, and the commas between.
        opens = (depths == ITEM_DEPTH) & (STEP[codes] == 1)
        last_open = np.maximum.accumulate(np.where(opens, np.arange(len(codes)), -1))
        in_list = np.where(last_open < 0, self._in_list, codes[last_open] == OPEN_LIST)
        ends = (depths == ITEM_DEPTH - 1) & (codes == CLOSE_LIST)
        edges = in_list & (opens | ends | ((depths == ITEM_DEPTH) & (codes == COMMA)))
        item_values = np.diff(values[edges], prepend=self._item_start, append=values[-1])
        if values[-1] > self._limits.values or item_values.max() > self._limits.item_values:
            raise ProblemError(
                413,
                "too-large",
                f"the body has more than {self._limits.values:,} values, or one query or item more than "
                f"{self._limits.item_values:,}: send less in a request",
            )
        if edges.any():
            self._item_start = int(values[edges][-1])
            self._edges.append(positions[edges])
            self._ends.append(ends[edges])
        self._depth, self._in_list, self.values = int(depths[-1]), bool(in_list[-1]), int(values[-1])


def parse(body: bytes | bytearray, scanner: JsonScanner, start: int = 0, end: int | None = None) -> Any:
    """Parse JSON. A long text in one of `FILE_FIELDS` becomes an `EncodedFile`, which stays in the body.

    Args:
        body: has the JSON.
        scanner: that was fed with it.
        start: of the value in the body.
        end: of the value in the body.

    Raises:
        ValueError: it is not JSON.
        ProblemError: 400, a long text is not UTF-8.
    """
    end = len(body) if end is None else end
    texts = [each for each in scanner.long_texts if start <= each[0] and each[1] <= end]
    files = {uuid.uuid4().hex: EncodedFile(body, *each) for each in texts}
    outline = bytearray()
    for name, (text_start, text_end) in zip(files, texts, strict=True):
        outline += body[start:text_start] + name.encode()
        start = text_end
    value = from_json(outline + body[start:end] if files else body[start:end])
    return _with_files(value, files) if files else value


def _with_files(value: Any, files: Mapping[str, EncodedFile], field: str = "") -> Any:
    """Return a value with files and long texts for their names; `field` is the one that it is in."""
    if isinstance(value, str) and value in files:
        return files[value] if field in FILE_FIELDS else files[value].text()
    if isinstance(value, list):
        return [_with_files(element, files, field) for element in value]
    if isinstance(value, dict):
        names = {name: files[name].text() if name in files else name for name in value}
        return {names[name]: _with_files(element, files, names[name]) for name, element in value.items()}
    return value


def build(body: bytes | bytearray, scanner: JsonScanner, field: str, max_items: int) -> Any:
    """Build the objects of JSON, element by element of its lists: other threads run between two of them.

    Args:
        body: JSON.
        scanner: that was fed with it.
        field: the list of the outermost object that is expected to be long.
        max_items: elements that its lists may have.

    Raises:
        ProblemError: 400, it is not JSON; 422, a list is too long.
    """
    items = scanner.items()
    if len(items) > max_items:
        raise invalid_field(field, f"are {len(items)}, over the limit of {max_items}")
    built: list[Any] = []
    try:
        outline = from_json(b"".join(_outline(body, scanner, items, built)))
    except ValueError as error:
        raise ProblemError(400, "malformed-request", f"the body is not JSON: {error}") from error
    if not isinstance(outline, dict):
        return outline
    return {
        name: [built[number] for number in value] if isinstance(value, list) else value
        for name, value in outline.items()
    }


def _outline(
    body: bytes | bytearray, scanner: JsonScanner, items: list[tuple[int, int]], built: list[Any]
) -> Iterator[bytes | bytearray]:
    """Yield the JSON with the number of each element in its place, and append the elements to `built`."""
    copied = 0
    for start, end in items:
        if end - start < LONG_TEXT and not body[start:end].strip():  # an empty list, or an error that the parser finds
            continue
        yield body[copied:start]
        yield str(len(built)).encode()
        copied = end
        built.append(parse(body, scanner, start, end))
    yield body[copied:]
