"""The kind and size of an AVIF or HEIC picture, read from its boxes without a decoder (ISO/IEC 23008-12)."""

from collections.abc import Iterator
from typing import Literal

from galleria.errors import BrokenMediaError, UnsupportedMediaError

BRANDS: dict[bytes, Literal["AVIF", "HEIF"]] = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIF"),
}
"""Brand → Pillow's name of the format. The general brands mif1 and msf1 come with one of these."""

SIZE_PATH = (b"meta", b"iprp", b"ipco")
"""Boxes around the sizes (ispe) of all pictures in a file: tiles, thumbnails, and the picture that they make."""

META_FLAGS_BYTES = 4


def heif_kind(data: bytes) -> Literal["AVIF", "HEIF"] | None:
    """Return Pillow's name of the format, or None if the bytes do not begin as such a file."""
    if data[4:8] != b"ftyp":
        return None
    size = int.from_bytes(data[:4])
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(size, len(data), 256), 4))]
    return next((BRANDS[brand] for brand in brands if brand in BRANDS), None)


def register_heif(kind: Literal["AVIF", "HEIF"]) -> None:
    """Make Pillow read HEIC, which it does not by itself.

    Raises:
        UnsupportedMediaError: the package for it is not installed.
    """
    if kind == "AVIF":
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedMediaError(
            "HEIC pictures need one more package: pip install 'galleria[heic]', or send JPEG"
        ) from error
    pillow_heif.register_heif_opener()


def heif_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of the largest picture in the file, as coded: HEVC pads it to whole blocks.

    Raises:
        BrokenMediaError: the boxes are damaged or cut short.
    """
    begin, end = 0, len(data)
    for name in SIZE_PATH:
        begin, end = next(_boxes(data, begin, end, name), (0, 0))
        begin += META_FLAGS_BYTES if name == b"meta" else 0
    sizes = [
        (int.from_bytes(data[at + 4 : at + 8]), int.from_bytes(data[at + 8 : at + 12]))
        for at, _ in _boxes(data, begin, end, b"ispe")
    ]
    if not sizes:
        raise BrokenMediaError("the picture is damaged or cut short (no size in its boxes): send the whole file again")
    return max(sizes, key=lambda size: size[0] * size[1])


def _boxes(data: bytes, begin: int, end: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the contents of each box of a name."""
    while begin + 8 <= end:
        size, head = int.from_bytes(data[begin : begin + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[begin + 8 : begin + 16]), 16
        elif size == 0:
            size = end - begin
        if size < head or begin + size > end:
            return
        if data[begin + 4 : begin + 8] == name:
            yield begin + head, begin + size
        begin += size
