"""The size of a WebP picture, read from its first bytes without a decoder (RFC 9649)."""

from galleria.errors import BrokenMediaError

HEADER_BYTES = 30
SIDE_BITS = 14


def is_webp(data: bytes) -> bool:
    """Return whether the bytes begin as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels: of the canvas, where there are several frames.

    Raises:
        BrokenMediaError: the header is damaged or cut short.
    """
    kind, content = data[12:16], data[20:HEADER_BYTES]
    if len(data) >= HEADER_BYTES:
        if kind == b"VP8X":
            return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
        mask = (1 << SIDE_BITS) - 1
        if kind == b"VP8L" and content[0] == 0x2F:
            sides = int.from_bytes(content[1:5], "little")
            return 1 + (sides & mask), 1 + (sides >> SIDE_BITS & mask)
        if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a":
            return int.from_bytes(content[6:8], "little") & mask, int.from_bytes(content[8:10], "little") & mask
    raise BrokenMediaError("the picture is damaged or cut short (no WebP header): send the whole file again")
