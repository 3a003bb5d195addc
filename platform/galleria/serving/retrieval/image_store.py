"""Reads pictures from the stores that the operator allows, and no others."""

import posixpath
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowInvalid, NativeFile
from pyarrow.fs import FileSystem, LocalFileSystem

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError

PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
UNSAFE = re.compile(r"[\x00-\x1f\x7f\ufffd\\?#]|%2f|%5c", re.IGNORECASE)
"""What is not in the path of a picture: queries, fragments, control characters, and separators that are encoded."""


class ImageStore:
    """A folder of pictures. Only the operator's URI says how to reach it: a picture's adds nothing but a path.

    Args:
        uri: of the folder, such as s3://shop/pictures. Its query (``?region=…&endpoint_override=…``) and its password
            are not part of the pictures' URIs.

    Attributes:
        prefix: of the pictures' URIs.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._is_uri = bool(urlsplit(uri).scheme)
        self.prefix = PASSWORD.sub("//", uri.partition("?")[0]).removesuffix("/") + "/"

    @cached_property
    def _file_system(self) -> tuple[FileSystem, str]:
        file_system: tuple[FileSystem, str] = FileSystem.from_uri(self._uri)
        return file_system

    def open(self, uri: str) -> NativeFile:
        """Open a picture whose URI begins with the store's prefix.

        Raises:
            DataError: it is not a path inside the store.
            OSError: there is no such file, or the store cannot be reached.
        """
        relative = _relative_path(uri.removeprefix(self.prefix), self._is_uri)
        files, root = self._file_system
        path = posixpath.join(root, relative)
        if isinstance(files, LocalFileSystem):
            path = _without_links(path, root)
        return files.open_input_file(path)


class ImageStores:
    """All stores that the operator allows.

    Args:
        uris: of the stores.
    """

    def __init__(self, uris: Sequence[str]) -> None:
        self._stores = [ImageStore(uri) for uri in uris]

    def read(self, uri: str, max_bytes: int, admit: Callable[[int], None] | None = None) -> bytes:
        """Read a picture of at most `max_bytes` bytes.

        Args:
            uri: of the picture.
            max_bytes: size that it may have.
            admit: called with its size before it is read; raises an error to prevent that.

        Raises:
            DataError: the URI is not a path in an allowed store.
            BrokenMediaError: there is no such file, or it cannot be read.
            MediaTooLargeError: the file is larger.
        """
        try:
            with self._store(uri).open(uri) as file:
                size = file.size()
                if size > max_bytes:
                    raise MediaTooLargeError(
                        f"image_uri {uri[:200]!r} has more than {max_bytes:,} bytes: shrink the picture"
                    )
                if admit is not None:
                    admit(size)
                content: bytes = file.read(size)
        except (OSError, ArrowInvalid) as error:
            raise BrokenMediaError(f"image_uri {uri[:200]!r} cannot be read: {str(error)[:200]}") from error
        return content

    def _store(self, uri: str) -> ImageStore:
        for store in self._stores:
            if uri.startswith(store.prefix):
                return store
        allowed = ", ".join(store.prefix for store in self._stores) or "none"
        raise DataError(f"image_uri {uri[:200]!r} is not in a store that this service reads (allowed: {allowed})")


def _relative_path(text: str, encoded: bool) -> str:
    """Return the path of a picture in its store, decoded once."""
    path = unquote(text) if encoded else text
    # Decoded twice, as a server that is too eager would do.
    if UNSAFE.search(text) or UNSAFE.search(path) or {"", ".", ".."}.intersection(unquote(path).split("/")):
        raise DataError(
            f"image_uri is not a plain path in its store: {text[:200]!r} has a '?', '#' or '\\', an encoded separator, "
            "a control character, or a segment that is empty, '.' or '..': rename the picture"
        )
    return path


def _without_links(path: str, root: str) -> str:
    """Return a local path with its links resolved."""
    try:
        resolved = Path(path).resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError("it is a link to itself") from error
    if not resolved.is_relative_to(Path(root).resolve()):
        raise DataError(f"image_uri leads out of its store through a link: {path[:200]!r}")
    if resolved.exists() and not resolved.is_file():
        raise DataError(f"image_uri is not a file: {path[:200]!r}")
    return str(resolved)
