"""Reads a text table (CSV, TSV and their kin): every cell is the text that is in the file."""

import csv
import io
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs

from galleria.errors import ConfigurationError, DataError
from galleria.pipelines.readers.encodings import recognise_encoding, utf8_chunks
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.readers.records import BrokenRecord, Dialect, RecordReader
from galleria.pipelines.rejects import Reject

DELIMITERS = ",;\t|"
SAMPLE_BYTES = 64 << 10
SAMPLE_RECORDS = 100
UNQUOTED_DELIMITERS = "\t|"
"""With which tables are also written without quotes; with others, a cell that holds the delimiter has them."""
REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class RawTable:
    """A table as its file has it.

    Attributes:
        header: names of the columns.
        read: yields the table in parts: of the columns with these indices, in this order. Those of the second argument,
            whose texts repeat, may be dictionaries.
    """

    header: Sequence[str]
    read: Callable[[Sequence[int], Container[int]], Iterator[pa.Table]]


def open_delimited(
    files: pyarrow.fs.FileSystem, inside: str, suffix: str, options: ReadOptions, report: Report
) -> RawTable:
    """Recognise how a text table is written, and read its header.

    Records that do not parse are reported with their line. Empty cells are null.

    Args:
        files: file system of the table.
        inside: path of the table in it.
        suffix: ".tsv" is separated by tabs.
        options: `delimiter`, `encoding` and `quote` are taken as they are, where they are not None.
        report: receives records that do not parse, and notices.

    Raises:
        ConfigurationError: an option is not valid.
        DataError: the file is empty, or cannot be decoded.
    """
    encoding, is_guess = (options.encoding, False) if options.encoding else recognise_encoding(files, inside)
    if is_guess:
        reason = f"{inside} is not UTF-8: it was read as {encoding}; if texts are wrong, give its --encoding"
        report(Reject("", reason, kept=True))

    def chunks() -> Iterator[bytes]:
        texts = utf8_chunks(files, inside, encoding)
        first = next(texts, b"").removeprefix(b"\xef\xbb\xbf")
        if b"\r" in first and b"\n" not in first:  # line ends of old Macintosh programs
            return (text.replace(b"\r", b"\n") for text in chain([first], texts))
        return chain([first], texts)

    sample, separator, skipped = _sample(next(chunks()))
    if not sample.strip():
        raise DataError(f"{inside} is empty: its first line must name the columns")
    dialect = _recognise_dialect(sample, options, separator or ("\t" if suffix == ".tsv" else None))
    header, header_bytes, header_lines = _header(sample, dialect)

    def read(indices: Sequence[int], repeated: Container[int]) -> Iterator[pa.Table]:
        texts = chunks()
        first = next(texts)[skipped + header_bytes :]
        line = 1 + header_lines + (1 if separator else 0)

        def reject(record: BrokenRecord) -> None:
            report(Reject("", f"line {record.line} {record.reason}", line=record.line))

        types = [REPEATED_TEXT if index in repeated else pa.string() for index in range(len(header))]
        reader = RecordReader(dialect, len(header), line, _parser(dialect, types, indices), reject)
        return reader.tables(chain([first], texts))

    return RawTable(header, read)


def _sample(first: bytes) -> tuple[str, str | None, int]:
    """Return the beginning of a text, the delimiter that Excel's line `sep=;` names, and the length of this line."""
    text = first[:SAMPLE_BYTES]
    if len(first) > SAMPLE_BYTES:
        text = text[: text.rfind(b"\n") + 1] or first
    separator, skipped = None, 0
    line = text.split(b"\n", 1)[0]
    if line.lower().startswith(b"sep=") and len(line.rstrip(b"\r")) == 5:
        separator, skipped = chr(line[4]), len(line) + 1
    return text[skipped:].decode(errors="surrogateescape"), separator, skipped


def _recognise_dialect(sample: str, options: ReadOptions, separator: str | None) -> Dialect:
    for name, value in (("--delimiter", options.delimiter), ("--quote", options.quote)):
        if value and (len(value) != 1 or not value.isascii() or value in "\r\n"):
            raise ConfigurationError(f"{name} {value!r} is not a single ASCII character: give one, such as ';'")
    delimiter = options.delimiter or separator or _recognise_delimiter(sample, options.quote)
    quote = _recognise_quote(sample, delimiter) if options.quote is None else options.quote
    if delimiter == quote:
        raise ConfigurationError(f"the delimiter and the quote are both {quote!r}: give another --delimiter or --quote")
    return Dialect(delimiter, quote)


def _recognise_delimiter(sample: str, quote: str | None) -> str:
    """Return the delimiter by which most records have as many cells as the header, of these the one with most cells."""

    def fit(delimiter: str) -> tuple[bool, float, int]:
        dialect = Dialect(delimiter, '"' if quote is None else quote)
        reader = csv.reader(io.StringIO(sample, newline=""), **dialect.for_csv())
        try:
            counts = [len(record) for record, _ in zip(reader, range(SAMPLE_RECORDS), strict=False) if record]
        except csv.Error:  # a cell over the module's limit
            counts = [sample.split("\n", 1)[0].count(delimiter) + 1]
        if not counts:
            return False, 0.0, 0
        return counts[0] > 1, sum(count == counts[0] for count in counts) / len(counts), counts[0]

    return max(DELIMITERS, key=fit)


def _recognise_quote(sample: str, delimiter: str) -> str:
    """Return the double quote, or "" where cells that begin with one are not quoted, as in feeds separated by tabs."""
    if delimiter not in UNQUOTED_DELIMITERS:
        return '"'
    pattern = Dialect(delimiter, '"').record_pattern()
    text = sample.encode(errors="surrogateescape")
    position = quoted = broken = 0
    while position < len(text):
        match = pattern.match(text, position)
        end = match.end() if match else (text.find(b"\n", position) + 1 or len(text))
        record = text[position:end]
        broken += match is None
        quoted += match is not None and (record.startswith(b'"') or f'{delimiter}"'.encode() in record)
        position = end
    return "" if broken > quoted + 1 else '"'


def _header(sample: str, dialect: Dialect) -> tuple[list[str], int, int]:
    """Return the names of the columns, and the bytes and lines that they take, with empty lines before them."""
    text = sample.encode(errors="surrogateescape")
    start = len(text) - len(text.lstrip(b"\r\n"))
    match = dialect.record_pattern().match(text, start)
    try:
        if match is None:
            raise DataError(f"the header has a broken quote: {text[start:].splitlines()[0][:200].decode()}")
        [names] = csv.reader([match[0].decode()], **dialect.for_csv())
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"the header cannot be read ({error}): give the file's --encoding or --delimiter") from error
    end = match.end()
    return [name.strip() for name in names], end, text[:end].count(b"\n")


def _parser(
    dialect: Dialect, types: Sequence[pa.DataType], indices: Sequence[int]
) -> Callable[[bytes], pa.Table | None]:
    """Return a function that parses well-formed records, or returns None where they have other numbers of cells."""
    names = [str(index) for index in range(len(types))]
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict(zip(names, types, strict=True)),
        include_columns=[names[index] for index in indices],
        null_values=[""],
        strings_can_be_null=True,
    )

    def parse(block: bytes) -> pa.Table | None:
        odd = []

        def skip(record: pyarrow.csv.InvalidRow) -> str:
            odd.append(record)
            return "skip"

        has_quotes = bool(dialect.quote) and dialect.quote.encode() in block
        layout = pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote if has_quotes else False,
            newlines_in_values=has_quotes,
            invalid_row_handler=skip,
        )
        for block_bytes in (1 << 20, len(block) + 1):  # no record may be longer than a block
            options = pyarrow.csv.ReadOptions(column_names=names, block_size=block_bytes)
            try:
                table = pyarrow.csv.read_csv(pa.BufferReader(block), options, layout, convert)
            except pa.ArrowInvalid:
                continue
            return None if odd else table
        return None

    return parse
