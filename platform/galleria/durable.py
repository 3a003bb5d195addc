"""Writes that survive a loss of power on a local disk. Object stores are durable by themselves."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Sync = Callable[[Path], None]


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(files: Iterable[Path], to_disk: Sync = sync) -> None:
    """Sync files, and then the folders that name them."""
    folders: dict[Path, None] = {}
    for file in files:
        to_disk(file)
        folders[file.parent] = None
    for folder in folders:
        to_disk(folder)


def write_atomically(path: Path, content: bytes, to_disk: Sync = sync, mode: int = 0o666) -> None:
    """Write a file durably: readers, and a loss of power, see the old content or the new, never a part of it.

    Args:
        path: of the file; a link is followed.
        content: of the file.
        to_disk: syncs a file or a folder.
        mode: permissions of a new file, less the umask. A file that exists keeps its own.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        temporary.touch(mode)
        temporary.write_bytes(content)
        if path.exists():
            _copy_owner(path, temporary)
        to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    to_disk(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep out every other process and thread that locks the same path, to read a file and write it again.

    The lock is on a file next to it, which stays: `write_atomically` replaces the file itself.
    """
    path = path.resolve()
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path, to_disk: Sync = sync) -> None:
    """Make a folder and its parents, durably; those that exist are left as they are."""
    if not path.is_dir():
        make_folder(path.parent, to_disk)
        path.mkdir(exist_ok=True)
        to_disk(path.parent)


def move_folder(new: Path, path: Path, to_disk: Sync = sync) -> None:
    """Move a finished folder to `path` on the same file system, durably: it appears there as a whole.

    Raises:
        OSError: there is already something at `path`.
    """
    _sync_folder(new, to_disk)
    new.rename(path)
    to_disk(path.parent)


def replace_folder(new: Path, path: Path, to_disk: Sync = sync) -> None:
    """Move a finished folder to `path` on the same file system, durably, and remove the folder that was there.

    Raises:
        OSError: the folder cannot be moved; the old one stays.
    """
    _sync_folder(new, to_disk)
    old = new.with_name(f"{new.name}-old")
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    to_disk(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path, to_disk: Sync) -> None:
    for path in (*folder.rglob("*"), folder):
        to_disk(path)


def _copy_owner(source: Path, target: Path) -> None:
    """Give a file the owner, where this process may, and the permissions of another."""
    owner = source.stat()
    with contextlib.suppress(PermissionError):
        os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copymode(source, target)
