"""Reads JSON lines: one object a line. Numbers become the text that is in the file."""

import json
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from galleria.errors import DataError
from galleria.pipelines.readers.cells import list_column
from galleria.pipelines.readers.delimited import RawTable
from galleria.pipelines.readers.encodings import utf8_chunks
from galleria.pipelines.readers.options import Report
from galleria.pipelines.rejects import Reject

ROWS = 4096


def open_json_lines(files: pyarrow.fs.FileSystem, inside: str, report: Report) -> RawTable:
    """Open a file of JSON objects; its columns are the names in any of them.

    Raises:
        DataError: no line is an object.
    """
    header: dict[str, None] = {}
    for _, record in _records(files, inside, lambda _: None):
        header |= dict.fromkeys(record)
    if not header:
        raise DataError(f"{inside} holds no JSON object: it must have one a line")
    names = list(header)

    def read(indices: Sequence[int], _: Container[int]) -> Iterator[pa.Table]:
        records = (record for _number, record in _records(files, inside, report))
        while part := list(islice(records, ROWS)):
            yield pa.table({names[index]: _column([record.get(names[index]) for record in part]) for index in indices})

    return RawTable(names, read)


def _records(files: pyarrow.fs.FileSystem, inside: str, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(files, inside), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode(), parse_int=str, parse_float=str)
            if not isinstance(record, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            report(Reject("", f"line {number} is not a JSON object ({error}): fix the line", line=number))
            continue
        yield number, record


def _lines(files: pyarrow.fs.FileSystem, inside: str) -> Iterator[bytes]:
    rest = b""
    for chunk in utf8_chunks(files, inside, "utf-8"):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def _column(values: list[Any]) -> pa.ChunkedArray | pa.Array:
    """Return a column of lists where any value is one, else of texts; other values in their JSON form."""
    if not any(isinstance(value, list) for value in values):
        return pa.array([_text(value) for value in values], pa.string())
    lists = [[_text(part) for part in value] if isinstance(value, list) else None for value in values]
    texts = [None if isinstance(value, list) else _text(value) for value in values]
    listed = pa.array(lists, pa.list_(pa.string()))
    return pc.coalesce(listed, list_column(pa.chunked_array([pa.array(texts, pa.string())]), ""))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)
