"""Reads pictures from the stores that the operator allows, and from nowhere else."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSystem, LocalFileSystem

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError


def read_picture(uri: str, stores: Sequence[str], most: int) -> bytes:
    """The bytes of a file of at most `most` bytes.

    Args:
        uri: its address, such as s3://shop/pictures/17.jpg.
        stores: beginnings of the addresses that are allowed.
        most: bytes.

    Raises:
        DataError: the address is in no allowed store, or there is no file.
        MediaTooLargeError: the file is larger.
    """
    store = next((store for store in stores if uri.startswith(store.rstrip("/") + "/")), None)
    if store is None or "\\" in uri or ".." in unquote(urlsplit(uri).path).split("/"):
        allowed = ", ".join(stores) or "none"
        raise DataError(f"image_uri {uri[:200]!r} is in no store that this service reads (allowed: {allowed})")
    try:
        files, path = FileSystem.from_uri(uri)
        if isinstance(files, LocalFileSystem):
            _check_inside(path, FileSystem.from_uri(store)[1])
        with files.open_input_stream(path) as stream:
            content: bytes = stream.read(most + 1)
    except (OSError, ArrowInvalid) as error:
        raise BrokenMediaError(f"image_uri {uri[:200]!r} cannot be read: {str(error)[:200]}") from error
    if len(content) > most:
        raise MediaTooLargeError(f"image_uri {uri[:200]!r} has more than {most:,} bytes: shrink the picture")
    return content


def _check_inside(path: str, store: str) -> None:
    if Path(store).resolve() not in Path(path).resolve().parents:
        raise DataError(f"image_uri leads out of its store through a link: {path[:200]!r}")
