"""Leaves out of a PNG picture what is not needed to show it (PNG specification, third edition)."""

import zlib
from collections.abc import Iterator

from galleria.errors import BrokenMediaError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAME_BYTES = 12
"""Of a chunk: length, name and checksum around its contents."""

TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILE = b"iCCP"
MAX_METADATA_BYTES = 1 << 20
"""Of all texts, and of a colour profile, decompressed. Pillow rejects a picture with more."""

MAX_CHUNKS = 100_000
"""Of one file, since each costs time: encoders write a picture of 50 million pixels in 25,000."""


def without_large_metadata(data: bytes) -> bytes:
    """Return a PNG file without the texts and colour profiles that are over `MAX_METADATA_BYTES`; others as they are.

    Raises:
        BrokenMediaError: there are more than `MAX_CHUNKS` chunks.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept, begin, left = [], 0, {PROFILE: MAX_METADATA_BYTES, b"text": MAX_METADATA_BYTES}
    for name, chunk in _metadata(data):
        budget = PROFILE if name == PROFILE else b"text"
        left[budget] -= _length(name, data[chunk.start + 8 : chunk.stop - 4], left[budget])
        if left[budget] < 0:
            kept.append(data[begin : chunk.start])
            begin = chunk.stop
    return b"".join([*kept, data[begin:]]) if kept else data


def _metadata(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Yield the name of each chunk with a text or a colour profile, and where it is."""
    begin = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        end = begin + FRAME_BYTES + int.from_bytes(data[begin : begin + 4])
        if begin + FRAME_BYTES > len(data) or end > len(data):
            return
        name = data[begin + 4 : begin + 8]
        if name == PROFILE or name in TEXTS:
            yield name, slice(begin, end)
        begin = end
    raise BrokenMediaError(f"the picture has more than {MAX_CHUNKS:,} chunks: save it again")


def _length(name: bytes, content: bytes, limit: int) -> int:
    """Return the length of a chunk's contents, decompressed, or `limit` + 1 where it is over the limit."""
    if limit < 0 or len(content) > limit:
        return limit + 1
    _, _, rest = content.partition(b"\0")
    compressed = rest[1:]
    if name == b"tEXt" or (name == b"iTXt" and not rest.startswith(b"\1")):
        return len(content)
    if name == b"iTXt":  # flag, method, language, translated keyword
        compressed = rest[2:].split(b"\0", 2)[-1]
    try:
        return max(len(content), len(zlib.decompressobj().decompress(compressed, limit + 1)))
    except zlib.error:
        return len(content)
