"""Renames manifests that a power loss left incomplete; their commits were never acknowledged."""

import logging
import os
import struct
from pathlib import Path

import lance

from galleria.durable import Sync

logger = logging.getLogger(__name__)

FOOTER = struct.Struct("<QHH4s")
"""End of a manifest: offset of its content, two numbers of the format, and Lance's magic bytes."""


def set_torn_aside(path: str, to_disk: Sync) -> None:
    """Rename the manifests of a table on a local disk that are empty or torn to `*.torn`, with a warning."""
    folder = Path(path.removeprefix("file://")) / "_versions"
    newest = True
    for manifest in sorted(folder.glob("*.manifest")):  # newest first: names count down
        if _is_complete(manifest) and (not newest or _decodes(path, manifest)):
            newest = False
            continue
        logger.warning("%s was cut short before it was acknowledged: set aside as %s.torn", manifest, manifest)
        manifest.rename(manifest.with_name(manifest.name + ".torn"))
        to_disk(folder)


def _is_complete(manifest: Path) -> bool:
    """Return whether a manifest ends with a footer, at the length that it states."""
    try:
        file = manifest.open("rb")
    except FileNotFoundError:  # removed meanwhile
        return True
    with file:
        size = file.seek(0, os.SEEK_END)
        if size < FOOTER.size:
            return False
        file.seek(-FOOTER.size, os.SEEK_END)
        start, _, _, magic = FOOTER.unpack(file.read())
        if magic != b"LANC" or start > size - FOOTER.size:
            return False
        file.seek(start)
        return bool(start + 4 + int.from_bytes(file.read(4), "little") + FOOTER.size == size)


def _decodes(path: str, manifest: Path) -> bool:
    version = 2**64 - 1 - int(manifest.name.removesuffix(".manifest"))
    try:
        return bool(lance.dataset(path, version=version).version == version)
    except ValueError as error:
        if "failed to decode" in str(error):
            return False
        raise
