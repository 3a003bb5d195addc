"""Reads pictures from the stores that the operator allows, and no others."""

import errno
import logging
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowInvalid, NativeFile
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError, StorageError

logger = logging.getLogger("ray.serve")

PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
UNSAFE = re.compile(r"[\x00-\x1f\x7f\ufffd\\?#]|%2f|%5c", re.IGNORECASE)
"""What is not in the path of a picture: queries, fragments, control characters, and separators that are encoded."""

PICTURE_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers that say something of one picture. Others, and errors of a network, say something of its store."""

DENIED = "ACCESS_DENIED"
"""In the message of an S3 store that does not show a picture, or does not say that there is none."""


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

    def read(self, uri: str, max_bytes: int, admit: Callable[[int], None] | None = None) -> bytes:
        """Read a picture whose URI begins with the store's prefix. Arguments and errors as `ImageStores.read`."""
        try:
            with self._open(uri) as file:
                size = file.size()
                if size > max_bytes:
                    raise MediaTooLargeError(
                        f"image_uri {uri[:200]!r} has more than {max_bytes:,} bytes: shrink the picture"
                    )
                if admit is not None:
                    admit(size)
                content: bytes = file.read(size)
        except (OSError, ArrowInvalid) as error:  # their texts may name files of the server
            logger.warning("image_uri %r cannot be read: %s", uri[:200], error)
            if not _is_of_picture(error) or (isinstance(error, FileNotFoundError) and not self._is_there()):
                raise StorageError(f"the store of image_uri {uri[:200]!r} cannot be reached") from error
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "access denied"
            raise BrokenMediaError(f"image_uri {uri[:200]!r} cannot be read: {reason}") from error
        return content

    def _open(self, uri: str) -> NativeFile:
        relative = _relative_path(uri.removeprefix(self.prefix), self._is_uri)
        files, root = self._file_system
        path = posixpath.join(root, relative)
        if isinstance(files, LocalFileSystem):
            path = _without_links(path, root, uri)
        return files.open_input_file(path)

    def _is_there(self) -> bool:
        """Return whether a local store's folder is there, as of a disk that is mounted. Another store has answered."""
        files, root = self._file_system
        return not isinstance(files, LocalFileSystem) or files.get_file_info(root).type == FileType.Directory


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
            BrokenMediaError: there is no such file, or it may not be read.
            MediaTooLargeError: the file is larger.
            StorageError: the store cannot be reached.
        """
        return self.store(uri).read(uri, max_bytes, admit)

    def store(self, uri: str) -> ImageStore:
        """Return the store of a picture.

        Raises:
            DataError: it is in no allowed store.
        """
        for store in self._stores:
            if uri.startswith(store.prefix):
                return store
        raise DataError(
            f"image_uri {uri[:200]!r} is not in a store that this service reads: send the picture itself, or have the "
            "service's `stores` extended"
        )


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


def _without_links(path: str, root: str, uri: str) -> str:
    """Return a local path with its links resolved."""
    try:
        resolved = Path(path).resolve()
    except RuntimeError as error:  # before Python 3.13
        raise DataError(f"image_uri is a link to itself: {uri[:200]!r}") from error
    if not resolved.is_relative_to(Path(root).resolve()):
        raise DataError(f"image_uri leads out of its store through a link: {uri[:200]!r}")
    if resolved.exists() and not resolved.is_file():
        raise DataError(f"image_uri is not a file: {uri[:200]!r}")
    return str(resolved)


def _is_of_picture(error: Exception) -> bool:
    """Return whether an error says something of one picture, and not of its store."""
    if isinstance(error, OSError):
        return error.errno in PICTURE_ERRORS or isinstance(error, FileNotFoundError) or DENIED in str(error)
    return True
