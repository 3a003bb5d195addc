"""Reads what people have (folders, tables, annotation files) as rows of a family, files by their paths."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.splits import ALSO, split_of

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
SEPARATOR = ";"
"""Between the values of one cell of a table, where the family's column is a list."""


@dataclass(frozen=True)
class ReadOptions:
    """How files become rows.

    Attributes:
        columns: galleria's name → the table's, where they differ.
        levels: the table's columns that make the category path, root first.
        label: the column that a folder's name fills: its whole path for "category", else the innermost folder.
        videos: folder of the videos that an annotation file names; by default the one it lies in.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[str] = ()
    label: str = "category"
    videos: str | None = None


def list_rows(path: str, family: Family[Any], reading: ReadOptions) -> list[Row]:
    """Rows of a folder of pictures or videos, a CSV or parquet table, or an ActivityNet annotation file.

    Pictures and videos stand in the rows as full paths or URIs. A row without a split gets one by a hash of its
    product, or else of its id, so that pictures of a product stay together.

    Args:
        path: local, or on an object store as a URI.
        family: whose columns the rows are to have.
        reading: how to find them.

    Raises:
        DataError: there is nothing at the path, or it cannot be read.
        SchemaError: a column is missing.
        ConfigurationError: an option names no column of the family.
    """
    store, inside = _filesystem(path)
    kind = store.get_file_info(inside).type
    root = path if "://" in path else inside
    if kind == pyarrow.fs.FileType.Directory:
        rows = _folder(store, inside, root.rstrip("/"), family, reading)
    elif kind == pyarrow.fs.FileType.NotFound:
        raise DataError(f"there is nothing at {path}: name a folder, a .csv, a .parquet or a .json file")
    else:
        suffix = PurePosixPath(inside).suffix.lower()
        folder = root.rsplit("/", 1)[0]
        if suffix == ".json":
            rows = _activitynet(store, inside, reading.videos or folder)
        elif suffix in (".csv", ".tsv", ".parquet"):
            rows = _table(store, inside, suffix, folder, family, reading)
        else:
            raise DataError(f"{path} is no .csv, .tsv, .parquet or .json file, and no folder: convert one of these")
    listed: list[Row] = [dict(row) | {"split": _split(row)} for row in rows]
    if not listed:
        raise DataError(f"{path} holds nothing to read for {family.name}: it reads {', '.join(family.schema.names)}")
    return listed


def read_file(path: str) -> bytes:
    """A whole file, local or on an object store.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        store, inside = _filesystem(path)
        with store.open_input_stream(inside) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the file {path} cannot be read ({error}): mend the path, or leave the row out") from error


def file_columns(family: Family[Any]) -> list[str]:
    """Columns that stand for a file: contents of pictures, paths of videos."""
    return [column.name for column in family.schema if column.name == "video" or pa.types.is_binary(column.type)]


def _filesystem(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    if "://" in path:
        try:
            found: tuple[pyarrow.fs.FileSystem, str] = pyarrow.fs.FileSystem.from_uri(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be reached ({error}): use a local path, s3://, gs:// or hdfs://") from error
        return found
    local = pyarrow.fs.LocalFileSystem()
    return local, local.normalize_path(str(Path(path).expanduser().absolute()))


def _split(row: Row) -> str:
    given = row.get("split")
    return ALSO.get(str(given).lower(), str(given)) if given else split_of(str(row.get("product_id") or row["id"]))


def _folder(
    store: pyarrow.fs.FileSystem, inside: str, root: str, family: Family[Any], reading: ReadOptions
) -> Iterator[Row]:
    """`[split/]label/…/file`: folders are labels; `a.contour.png` beside `a.jpg` fills the column "contour"."""
    names = set(family.schema.names) | {"category"}
    if reading.label not in names:
        raise ConfigurationError(
            f"the label {reading.label!r} is no column of {family.name}: choose one of {', '.join(sorted(names))}"
        )
    media = "video" if "video" in family.schema.names else "image"
    wanted = VIDEOS if media == "video" else PICTURES
    files = store.get_file_info(pyarrow.fs.FileSelector(inside, recursive=True))
    found = sorted(file.path[len(inside) :].lstrip("/") for file in files if file.is_file)
    beside = [name for name in file_columns(family) if name != media]
    maps = {f"{name}.png" for name in beside}
    every = set(found)
    for name in found:
        place = PurePosixPath(name)
        if place.suffix.lower() not in wanted or any(name.endswith(f".{end}") for end in maps):
            continue
        folders = list(place.parts[:-1])
        split = ALSO.get(folders[0].lower()) if folders else None
        folders = folders[1:] if split else folders
        row: dict[str, Any] = {"id": name, media: f"{root}/{name}", "split": split}
        if folders:
            row[reading.label] = folders if reading.label == "category" else _typed(folders[-1], family, reading.label)
        for column in beside:
            other = str(place.with_suffix(f".{column}.png"))
            row[column] = f"{root}/{other}" if other in every else None
        if "product_id" in family.schema.names and "product_id" not in row:
            row["product_id"] = "/".join([*folders, place.stem])
        yield row


def _table(
    store: pyarrow.fs.FileSystem, inside: str, suffix: str, folder: str, family: Family[Any], reading: ReadOptions
) -> Iterator[Row]:
    """One row a line; a column for every level of the tree; paths are relative to the table's folder."""
    with store.open_input_file(inside) as stream:
        try:
            if suffix == ".parquet":
                table = pq.read_table(stream)
            else:
                parsing = pyarrow.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
                table = pyarrow.csv.read_csv(stream, parse_options=parsing)
        except pa.ArrowInvalid as error:
            raise DataError(f"{inside} cannot be read as {suffix[1:]}: {error}") from error
    names = {name: name for name in ("id", "split", "title", "category", *family.schema.names)}
    unknown = [name for name in reading.columns if name not in names]
    if unknown:
        raise ConfigurationError(f"unknown column {unknown[0]!r}: {family.name} reads {', '.join(sorted(names))}")
    names |= reading.columns
    missing = [column for column in (*reading.columns.values(), *reading.levels) if column not in table.column_names]
    media = "video" if "video" in family.schema.names else "image"
    missing += [names[media]] if names[media] not in table.column_names else []
    if missing:
        raise SchemaError(
            f"{inside} has no column {missing[0]!r}: say --column {media}=NAME, or --level NAME "
            f"(its columns: {', '.join(table.column_names)})"
        )
    for number, line in enumerate(table.to_pylist()):
        row = {
            name: _typed(line[actual], family, name) for name, actual in names.items() if line.get(actual) is not None
        }
        row.setdefault("id", str(number))
        if reading.levels:
            row["category"] = [str(line[level]) for level in reading.levels if line[level] not in (None, "")]
        for name in file_columns(family):
            if isinstance(row.get(name), str) and "://" not in row[name] and not row[name].startswith("/"):
                row[name] = f"{folder}/{row[name]}"
        yield row


def _activitynet(store: pyarrow.fs.FileSystem, inside: str, videos: str) -> Iterator[Row]:
    """{"database": {name: {"subset": …, "annotations": [{"label": …}, …]}}}, videos as `name` or `v_name` files."""
    with store.open_input_stream(inside) as stream:
        try:
            database = json.loads(stream.read())["database"]
            marked = {str(name): entry.get("annotations") or [] for name, entry in database.items()}
            events = {name: sorted({str(found["label"]) for found in marks}) for name, marks in marked.items()}
            subsets = {str(name): entry.get("subset") for name, entry in database.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{inside} is not an ActivityNet annotation file ({type(error).__name__}: {error}): it must hold "
                '{"database": {name: {"subset": …, "annotations": [{"label": …}]}}}'
            ) from error
    shelf, folder = _filesystem(videos)
    files = {
        PurePosixPath(file.path).stem.removeprefix("v_"): file.path[len(folder) :].lstrip("/")
        for file in shelf.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True))
        if file.is_file and PurePosixPath(file.path).suffix.lower() in VIDEOS
    }
    root = videos.rstrip("/") if "://" in videos else folder
    if events and not files.keys() & events.keys():
        raise DataError(f"none of the {len(events)} videos of {inside} is in {root}: say --videos FOLDER")
    for name, labels in events.items():
        file = files.get(name, f"{name}.mp4")  # not there: rejected, with the path, where it is opened
        yield {"id": name, "video": f"{root}/{file}", "events": labels, "split": subsets[name]}


def _typed(value: Any, family: Family[Any], name: str) -> Any:
    """A cell as the family's column wants it: lists are split, the rest is text."""
    kind = family.schema.field(name).type if name in family.schema.names else pa.string()
    if pa.types.is_list(kind) or name == "category":
        if isinstance(value, list):
            return value
        return [part.strip() for part in str(value).split(SEPARATOR) if part.strip()]
    if isinstance(value, bytes):
        return value
    return str(value)
