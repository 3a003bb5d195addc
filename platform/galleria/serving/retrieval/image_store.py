"""Reads pictures from the stores that the operator allows, and no others."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSystem, LocalFileSystem

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError


def read_picture(uri: str, stores: Sequence[str], max_bytes: int) -> bytes:
    """Read a file of at most `max_bytes` bytes.

    Args:
        uri: of the file, such as s3://shop/pictures/17.jpg.
        stores: prefixes of the URIs that are allowed.
        max_bytes: of the file.

    Raises:
        DataError: the URI is in no allowed store, or there is no file.
        MediaTooLargeError: the file is larger.
    """
    store = next((store for store in stores if uri.startswith(store.rstrip("/") + "/")), None)
    if store is None or "\\" in uri or ".." in unquote(urlsplit(uri).path).split("/"):
        allowed = ", ".join(stores) or "none"
        raise DataError(f"image_uri {uri[:200]!r} is not in a store that this service reads (allowed: {allowed})")
    try:
        files, path = FileSystem.from_uri(uri)
        if isinstance(files, LocalFileSystem):
            _check_inside(path, FileSystem.from_uri(store)[1])
        with files.open_input_stream(path) as stream:
            content: bytes = stream.read(max_bytes + 1)
    except (OSError, ArrowInvalid) as error:
        raise BrokenMediaError(f"image_uri {uri[:200]!r} cannot be read: {str(error)[:200]}") from error
    if len(content) > max_bytes:
        raise MediaTooLargeError(f"image_uri {uri[:200]!r} has more than {max_bytes:,} bytes: shrink the picture")
    return content


def _check_inside(path: str, store: str) -> None:
    if Path(store).resolve() not in Path(path).resolve().parents:
        raise DataError(f"image_uri leads out of its store through a link: {path[:200]!r}")
