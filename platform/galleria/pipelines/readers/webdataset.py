"""Reads WebDataset's tar files: a sample is the files of one name, such as `a.jpg`, `a.json`, `a.cls` and `a.txt`."""

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.task import Row
from galleria.pipelines.readers.files import IMAGE_SUFFIXES
from galleria.pipelines.readers.options import Report
from galleria.pipelines.rejects import Reject

SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT = ("txt", "caption")
FIELDS = ("product_id", "title", "text", "category", "source", "role", "split", "emotion", "aesthetics", "target")
MAX_MEMBER_BYTES = 256 << 20


def read_webdataset(files: pyarrow.fs.FileSystem, inside: str, split: str | None, report: Report) -> Iterator[Row]:
    """Yield a row for each sample with a picture, whose name is the id.

    Fields of `.json` have their own names; `.txt` is the text, `.cls` the category and the product.

    Args:
        files: file system of the tar file.
        inside: path of it.
        split: of samples whose `.json` names none.
        report: receives samples without a picture.

    Raises:
        DataError: it is not a tar file, or damaged.
    """
    try:
        with (
            files.open_input_stream(inside, compression=None) as stream,
            tarfile.open(fileobj=stream, mode="r|*") as tar,
        ):
            name = ""
            sample: dict[str, bytes] = {}
            for member in tar:
                folder, _, file = member.name.removeprefix("./").rpartition("/")
                stem, _, suffix = file.partition(".")
                if not member.isfile() or not suffix or file.startswith("."):
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != name and sample:
                    yield from _row(name, sample, split, report)
                    sample = {}
                name = key
                content = tar.extractfile(member)
                if content is not None and member.size <= MAX_MEMBER_BYTES:
                    sample[suffix.lower()] = content.read()
            if sample:
                yield from _row(name, sample, split, report)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{inside} cannot be read as a tar file ({error}): make it again") from error


def _row(name: str, sample: dict[str, bytes], split: str | None, report: Report) -> Iterator[Row]:
    picture = next((content for suffix, content in sample.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
    if picture is None:
        report(Reject(name, f"the sample has no picture, only {', '.join(sorted(sample))}: leave it out"))
        return
    try:
        texts = {suffix: sample[suffix].decode().strip() for suffix in (*TEXT, "cls") if suffix in sample}
        fields = json.loads(sample["json"], parse_int=str, parse_float=str) if "json" in sample else {}
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        report(Reject(name, f"the sample's texts cannot be read ({error}): save them as UTF-8 and valid JSON"))
        return
    row: dict[str, Any] = {field: _value(fields.get(field), field) for field in FIELDS}
    row["text"] = row["text"] or next((texts[suffix] for suffix in TEXT if suffix in texts), None)
    label = texts.get("cls")
    row["category"] = row["category"] or ([label] if label else None)
    row["product_id"] = row["product_id"] or label or name
    row["split"] = row["split"] or split
    yield {"id": name, "image": picture, **row}


def _value(value: Any, field: str) -> Any:
    if value is None:
        return None
    if field in ("category", "target"):
        values = value if isinstance(value, list) else [value]
        return [str(part) for part in values]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
