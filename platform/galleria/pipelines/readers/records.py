"""Finds the records of a text table: one a line, or several lines where a quoted cell has line breaks.

pyarrow parses what is well formed; this decides what is. After a broken quote, pyarrow would take all rows up to the
next quote as one cell.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from galleria.errors import DataError

MAX_RECORD_BYTES = 32 << 20
"""A quoted cell that does not end within so many bytes is broken."""


@dataclass(frozen=True)
class Dialect:
    """How a text table is written: the character between its cells, and the one around them, or ""."""

    delimiter: str
    quote: str

    def record_pattern(self, cells: int | None = None) -> re.Pattern[bytes]:
        """Return the pattern of a record with its line end, of a number of cells or of any."""
        count = "*+" if cells is None else f"{{{cells - 1}}}+"
        cell = self._cell()
        pattern = rf"{cell}(?:{re.escape(self.delimiter)}{cell}){count}(?:\r?\n|\Z)"
        return re.compile(pattern.encode())

    def for_csv(self) -> dict[str, Any]:
        """Return the arguments of `csv.reader`."""
        quoting = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quotechar": self.quote or None, "quoting": quoting}

    def unclosed_pattern(self) -> re.Pattern[bytes]:
        """Return the pattern of a record whose last quoted cell has no end."""
        if not self.quote:
            return re.compile(rb"(?!)")
        quote, delimiter = re.escape(self.quote), re.escape(self.delimiter)
        return re.compile(rf"(?:{self._cell()}{delimiter})*+{quote}(?:[^{quote}]++|{quote}{quote})*+\Z".encode())

    def _cell(self) -> str:
        delimiter, quote = re.escape(self.delimiter), re.escape(self.quote)
        plain = rf"[^{delimiter}\r\n]"
        if not self.quote:
            return rf"{plain}*+"
        return rf"(?:{quote}(?:[^{quote}]++|{quote}{quote})*+{quote}|(?!{quote}){plain}*+)"


@dataclass(frozen=True)
class BrokenRecord:
    """A record that is left out: the number of its first line, and why."""

    line: int
    reason: str


class RecordReader:
    """Cuts UTF-8 text into blocks of well-formed records.

    Args:
        dialect: how the table is written.
        cells: number of cells of each record.
        line: number of the first line.
        parse: parses a block; None where its records have another number of cells or its text is not UTF-8.
        report: receives records that are left out.
    """

    def __init__(
        self,
        dialect: Dialect,
        cells: int,
        line: int,
        parse: Callable[[bytes], pa.Table | None],
        report: Callable[[BrokenRecord], None],
    ) -> None:
        self._dialect = dialect
        self._cells = cells
        self._line = line
        self._parse = parse
        self._report = report
        self._exact = dialect.record_pattern(cells)
        self._any = dialect.record_pattern()
        self._unclosed = dialect.unclosed_pattern()

    def tables(self, chunks: Iterable[bytes]) -> Iterator[pa.Table]:
        """Yield the parsed records of chunks of text."""
        rest = b""
        for chunk in chunks:
            end = chunk.rfind(b"\n") + 1
            if not end:
                rest += chunk
                continue
            table, unread = self._read(rest + chunk[:end], final=False)
            rest = unread + chunk[end:]
            if table is not None:
                yield table
        table, _ = self._read(rest, final=True)
        if table is not None:
            yield table

    def _read(self, text: bytes, final: bool) -> tuple[pa.Table | None, bytes]:
        """Return the records of a text, and its end, where a record is not complete."""
        if not text:
            return None, b""
        end = _end_of_records(text, self._dialect.quote.encode()) if not final else len(text)
        block = text[:end]
        if b"\0" not in block and self._is_well_formed(block):
            table = self._parse(block)
            if table is not None:
                self._line += block.count(b"\n")
                return table, text[end:]
        good, end = self._good_records(text, final)
        if not good:
            return None, text[end:]
        table = self._parse(good)
        if table is None:
            raise DataError(f"the lines before {self._line} cannot be parsed: save the file again as CSV in UTF-8")
        return table, text[end:]

    def _is_well_formed(self, block: bytes) -> bool:
        """Whether quotes are where cells begin and end, and nowhere else."""
        quote = self._dialect.quote.encode()
        if not quote or quote not in block:
            return True
        characters = np.frombuffer(block, np.uint8)
        quotes = np.flatnonzero(characters == quote[0])
        if len(quotes) % 2:
            return False
        opening, closing = quotes[::2], quotes[1::2]
        around = np.frombuffer(f"{self._dialect.delimiter}\n".encode(), np.uint8)
        doubled = np.zeros(len(opening) + 1, np.bool_)
        doubled[1:-1] = closing[:-1] + 1 == opening[1:]  # two quotes in a cell are one that belongs to its text
        before = np.where(opening > 0, characters[opening - 1], ord("\n"))
        after = characters[np.minimum(closing + 1, len(characters) - 1)]
        ends = np.isin(after, around) | (after == ord("\r")) | (closing + 1 == len(characters))
        return bool(np.all(doubled[:-1] | np.isin(before, around)) and np.all(doubled[1:] | ends))

    def _good_records(self, text: bytes, final: bool) -> tuple[bytes, int]:
        """Return the records of a text that are well formed, and where the first begins that is not complete."""
        good: list[bytes] = []
        position = 0
        while position < len(text):
            match = self._any.match(text, position)
            if match is None and not final and self._is_incomplete(text, position):
                break
            end = match.end() if match else (text.find(b"\n", position) + 1 or len(text))
            record = text[position:end]
            reason = self._fault(record, match is not None)
            if reason is not None:
                self._report(BrokenRecord(self._line, reason))
            elif record.strip(b"\r\n"):
                good.append(record)
            self._line += record.count(b"\n")
            position = end
        return b"".join(good), position

    def _is_incomplete(self, text: bytes, position: int) -> bool:
        return len(text) - position < MAX_RECORD_BYTES and self._unclosed.match(text, position) is not None

    def _fault(self, record: bytes, is_whole: bool) -> str | None:
        """Return what is wrong with a record, or None."""
        if b"\0" in record:
            return "holds a NUL character: save the file as text again"
        try:
            text = record.decode()
        except UnicodeDecodeError:
            return "holds bytes that are not text in the file's encoding: give its --encoding, or fix the line"
        if not is_whole:
            quote = self._dialect.quote
            return f"has a broken quote: close the cell with {quote}, and double each {quote} in it"
        if not text.strip("\r\n") or self._exact.fullmatch(record):
            return None
        try:
            count = str(len(next(csv.reader([text], **self._dialect.for_csv()))))
        except csv.Error:  # a cell over the module's limit
            count = "other"
        return f"has {count} cells, the header {self._cells}: quote cells that hold {self._dialect.delimiter!r}"


def _end_of_records(text: bytes, quote: bytes) -> int:
    """Return where the last whole record of a text ends, as far as quotes alone say it. `text` ends with a line."""
    if not quote or text.count(quote) % 2 == 0:
        return len(text)
    characters = np.frombuffer(text, np.uint8)
    line_ends = np.flatnonzero(characters == ord("\n"))
    quotes = np.flatnonzero(characters == quote[0])
    outside = line_ends[np.searchsorted(quotes, line_ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0
