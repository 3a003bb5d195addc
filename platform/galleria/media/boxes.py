"""The number of frames that the boxes of an MP4 or QuickTime file claim, read without a decoder.

FFmpeg allocates memory for all of them when it opens a file, before it has read one: a header of a few bytes could
cost gigabytes and minutes.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

NESTED = frozenset(b"moov trak mdia minf stbl moof traf mvex edts dinf udta meta wave tref sinf schi strk gmhd".split())
"""Boxes that FFmpeg looks into (ISO/IEC 14496-12; `wave` and `gmhd` are QuickTime's)."""
COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Boxes that claim samples → offset of the number in them: tables of sizes, plain or compact, and runs of fragments."""
MAX_DEPTH = 10


def claimed_samples(file: BinaryIO) -> int:
    """Count the samples of all tracks, sound too, with all of their fragments."""
    return sum(_claims(file, 0, file.seek(0, 2), MAX_DEPTH))


def _claims(file: BinaryIO, begin: int, end: int, depth: int) -> Iterator[int]:
    while begin + 8 <= end and depth:
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1 and begin + 16 <= end:
            size, head = int.from_bytes(file.read(8)), 16
        elif size == 0:
            size = end - begin
        if size < head:
            return
        if kind in COUNTS:
            file.seek(begin + head + COUNTS[kind])
            yield int.from_bytes(file.read(4))
        elif kind == b"cmov":  # a compressed header, an old feature: its claims cannot be read
            yield 1 << 32
        elif kind in NESTED:
            skip = 4 if kind == b"meta" else 0
            yield from _claims(file, begin + head + skip, min(end, begin + size), depth - 1)
        begin += size
