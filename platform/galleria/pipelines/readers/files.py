"""Files on a local disk or an object store, and the columns of a family that hold them."""

import contextlib
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.family import Family
from galleria.media.fetch import Fetcher, FetchOptions, is_url

IMAGE_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".avif",
    ".heic",
    ".heif",
    ".hif",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
}
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}


def filesystem(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path inside it.

    Raises:
        DataError: the store is unknown or cannot be reached.
    """
    if "://" in path:
        try:
            resolved: tuple[pyarrow.fs.FileSystem, str] = pyarrow.fs.FileSystem.from_uri(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be reached ({error}): use a local path, s3://, gs:// or hdfs://") from error
        return resolved
    local = pyarrow.fs.LocalFileSystem()
    return local, local.normalize_path(str(Path(path).expanduser().absolute()))


def read_file(path: str) -> bytes:
    """Read a file: local, on an object store, or by HTTP(S).

    Raises:
        DataError: the file is missing or cannot be read.
    """
    if is_url(path):
        return Fetcher(FetchOptions()).fetch(path)
    try:
        files, inside = filesystem(path)
        with files.open_input_stream(inside) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the file {path} cannot be read ({error}): fix the path, or leave the row out") from error


def read_file_structs(column: pa.ChunkedArray, folder: str) -> pa.ChunkedArray:
    """Return the contents of files that are stored as `struct<bytes, path>`: the bytes, else what the path names.

    A file that cannot be read is empty: what decodes it rejects its row.

    Args:
        column: of such structs.
        folder: paths are relative to it.
    """
    contents: list[bytes | None] = []
    for file in column.to_pylist():
        if file is None or (file["bytes"] is None and not file["path"]):
            contents.append(None)
        elif file["bytes"] is not None:
            contents.append(file["bytes"])
        else:
            path = file["path"]
            with contextlib.suppress(DataError):
                contents.append(read_file(path if "://" in path or path.startswith("/") else f"{folder}/{path}"))
                continue
            contents.append(b"")
    return pa.chunked_array([pa.array(contents, pa.binary())])


def parent_folder(path: str) -> str:
    """Return the folder to which paths in a data set are relative: itself, or that of a file."""
    if PurePosixPath(path).suffix == ".parquet":
        return path.rpartition("/")[0] or "."
    return path.rstrip("/")


def file_columns(family: Family[Any]) -> list[str]:
    """Return the columns that are read from a file: contents of pictures, paths of videos."""
    return [column.name for column in family.schema if column.name == "video" or pa.types.is_binary(column.type)]


def media_column(family: Family[Any]) -> str:
    """Return the column of the picture or video that a row is about: "image" or "video"."""
    return "video" if "video" in family.schema.names else "image"
