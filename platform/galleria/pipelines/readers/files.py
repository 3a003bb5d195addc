"""Files on a local disk or an object store, and the columns of a family that hold them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.family import Family

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
    """Read a file, local or on an object store.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        files, inside = filesystem(path)
        with files.open_input_stream(inside) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the file {path} cannot be read ({error}): fix the path, or leave the row out") from error


def file_columns(family: Family[Any]) -> list[str]:
    """Return the columns that are read from a file: contents of pictures, paths of videos."""
    return [column.name for column in family.schema if column.name == "video" or pa.types.is_binary(column.type)]


def media_column(family: Family[Any]) -> str:
    """Return the column of the picture or video that a row is about: "image" or "video"."""
    return "video" if "video" in family.schema.names else "image"
