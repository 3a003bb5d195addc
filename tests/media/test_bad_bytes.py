"""Bytes that are not a valid picture are rejected with the right error, before they cost memory."""

import concurrent.futures
import io
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from galleria.errors import BrokenMediaError, DataError, MediaError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.images import decode_image, media_type
from galleria.media.limits import Limits
from tests.media.pictures import encoded, every_format, picture, values

WHOLE = every_format()
TRUNCATED = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "TIFF": {},
    "BMP": {},
    "AVIF": {},
    "HEIF": {},
}


SIGNATURE_BYTES = 16
"""A shorter file may not be recognised."""


def noise(kind: str) -> bytes:
    """Noise, so that the last pixels lie at the very end of the file."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
    return encoded(image.quantize(200) if kind == "GIF" else image, kind, **TRUNCATED[kind])


@pytest.mark.parametrize("kind", TRUNCATED)
def test_truncated_picture_is_never_half_grey(kind):
    """I4: cut anywhere, it is the same picture or damaged."""
    content = noise(kind)
    whole = values(decode_image(content))
    rejected = 0
    for length in range(SIGNATURE_BYTES, len(content)):
        try:
            shown = decode_image(content[:length])
        except BrokenMediaError:
            rejected += 1
        else:
            assert np.array_equal(values(shown), whole), f"cut after {length} of {len(content)} bytes"
    assert rejected > len(content) - SIGNATURE_BYTES - 40  # only what follows the last pixel may be missing


@pytest.mark.parametrize("name", WHOLE)
def test_half_picture_is_damaged(name):
    with pytest.raises(BrokenMediaError, match="send the whole file again"):
        decode_image(WHOLE[name][: len(WHOLE[name]) // 2])


def test_pillow_rejects_truncated_files():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@settings(deadline=None, max_examples=400, derandomize=True)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0.5, 1),
)
def test_mutated_picture_raises_media_error(name, changes, cut):
    """I1: wrong bytes raise errors of media alone."""
    mutant = bytearray(WHOLE[name])
    for offset, value in changes:
        mutant[int(offset * len(mutant))] = value
    try:
        shown = decode_image(bytes(mutant[: int(cut * len(mutant))]), Limits(image_pixels=1_000_000))
    except MediaError:
        return
    assert shown.mode == "RGB"


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    start=st.sampled_from([b"", *(content[:12] for content in WHOLE.values())]),
    rest=st.binary(max_size=200),
)
def test_signature_with_noise_raises_media_error(start, rest):
    with pytest.raises(MediaError):
        decode_image(start + rest)


@pytest.mark.parametrize("beginning", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n", b"RIFF", b"GIF89a", b"II*\0"])
def test_stub_of_known_format_is_damaged(beginning):
    with pytest.raises(BrokenMediaError):
        decode_image(beginning)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be huge and carries next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def patched(content: bytes, offset: int, layout: str, *numbers: int) -> bytes:
    return content[:offset] + struct.pack(layout, *numbers) + content[offset + struct.calcsize(layout) :]


def tiff_bomb() -> bytes:
    content = io.BytesIO()
    picture().save(content, "TIFF", tiffinfo={})
    raw = content.getvalue()
    for tag in (256, 257):  # ImageWidth, ImageLength
        for kind, value in ((3, "<HHIHH"), (4, "<HHII")):
            size = (64, 48)[tag - 256]
            found = struct.pack(value, tag, kind, 1, size, *([0] if kind == 3 else []))
            raw = raw.replace(found, struct.pack("<HHII", tag, 4, 1, 60_000))
    return raw


def jpeg_bomb() -> bytes:
    content = encoded(picture(), "JPEG")
    return patched(content, content.index(b"\xff\xc0") + 5, ">HH", 60_000, 60_000)


def webp_bomb() -> bytes:
    size = (16_382).to_bytes(3, "little") * 2
    frame = encoded(picture(), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + size + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png of Pillow's error": png_bomb(60_000, 60_000),
    "png of Pillow's warning": png_bomb(10_000, 10_000),
    "png just over our limit": png_bomb(7_072, 7_072),
    "png with the largest sides": png_bomb(2**31 - 1, 2**31 - 1),
    "png strip": png_bomb(1, 2**31 - 1),
    "jpeg": jpeg_bomb(),
    "gif": patched(encoded(picture().quantize(8), "GIF"), 6, "<HH", 60_000, 60_000),
    "bmp": patched(encoded(picture(), "BMP"), 18, "<ii", 60_000, 60_000),
    "tiff": tiff_bomb(),
    "webp": webp_bomb(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_rejected_with_little_memory(name):
    """I2: a bomb is rejected by its header."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(MediaTooLargeError, match="pixels"):
            decode_image(BOMBS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert peak < 2_000_000
    assert grown < 64_000, "kilobytes of the whole process, decoders in C too"


def test_picture_at_limit_is_read():
    content = encoded(picture(), "PNG")

    assert decode_image(content, Limits(image_pixels=64 * 48)).size == (64, 48)
    with pytest.raises(MediaTooLargeError, match="64 × 48 pixels, over the limit of 3,071"):
        decode_image(content, Limits(image_pixels=64 * 48 - 1))


def test_bytes_over_limit_are_rejected():
    with pytest.raises(MediaTooLargeError, match="1,001 bytes, over the limit of 1,000"):
        decode_image(b"x" * 1001, Limits(image_bytes=1000))


def test_empty_bytes_are_rejected():
    with pytest.raises(BrokenMediaError, match="empty"):
        decode_image(b"")


OTHER_KINDS = {
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "html": b"<!doctype html><img src=x onerror=alert(1)>",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "a pdf with a picture behind it": b"%PDF-1.7\n" + encoded(picture(), "JPEG"),
    "a script with a picture behind it": b"#!/bin/sh\n" + encoded(picture(), "PNG"),
    "zip": b"PK\x03\x04" + b"\0" * 30,
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "sound in RIFF": b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 24,
    "mp4": b"\0\0\0\x20ftypisom" + b"\0" * 24,
    "icon": encoded(picture(), "ICO"),
    "portable pixmap": encoded(picture(), "PPM"),
    "targa": encoded(picture(), "TGA"),
    "text": b"not a picture",
    "zeros": b"\0" * 500,
}


def in_header(content: bytes, position: int, parts: bytes) -> bytes:
    return content[:position] + parts * 200_000 + content[position:]


GIF_HEADER_BYTES = 13 + 3 * 256
JPEG = encoded(picture(), "JPEG")
ENDLESS_HEADERS = {
    "jpeg comments": in_header(JPEG, 2, b"\xff\xfe\0\2"),
    "jpeg exif": in_header(JPEG, 2, b"\xff\xe1\0\x08Exif\0\0"),
    "jpeg padding": in_header(JPEG, 2, b"\xff"),
    "gif comments": in_header(encoded(picture().quantize(255), "GIF"), GIF_HEADER_BYTES, b"\x21\xfe\1a\0"),
}


@pytest.mark.parametrize("name", ENDLESS_HEADERS)
def test_endless_header_is_damage(name):
    for read in (media_type, decode_image):
        with pytest.raises(BrokenMediaError, match="its header has more than 20,000 parts"):
            read(ENDLESS_HEADERS[name])


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_content_is_unsupported(name):
    """I6: other kinds and polyglots are not read."""
    with pytest.raises(UnsupportedMediaError, match="JPEG, PNG, WEBP, AVIF, GIF, BMP, TIFF"):
        decode_image(OTHER_KINDS[name])


def test_page_named_gif_is_not_read():
    with pytest.raises(BrokenMediaError):
        decode_image(b"GIF89a/*<svg onload=alert(1)>*/=1;")


def test_trailing_bytes_are_ignored():
    content = encoded(picture(), "PNG")

    assert np.array_equal(values(decode_image(content + b"PK\x03\x04<script>")), values(picture()))


def test_media_error_is_a_data_error():
    assert issubclass(MediaError, DataError)


def test_threads_restore_warning_filters():
    odd = encoded(Image.new("P", (8, 8)), "PNG", transparency=bytes(range(8)))
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: decode_image(odd).size, range(400)))

    assert sizes == [(8, 8)] * 400
    assert list(warnings.filters) == before


def test_pillow_warning_is_not_shown():
    content = png_bomb(10_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaTooLargeError, match="10000 × 10000"):
            decode_image(content)


def test_random_bytes_are_never_a_picture():
    for seed in range(1000):
        with pytest.raises(MediaError):
            decode_image(random.Random(seed).randbytes(64))


def test_loaded_plugins_are_not_used():
    script = (
        "from PIL import Image; Image.init()\n"
        "from galleria.media.images import decode_image\n"
        "from galleria.errors import UnsupportedMediaError\n"
        "try: decode_image(b'%!PS-Adobe-3.0 EPSF-3.0\\n%%BoundingBox: 0 0 9 9\\n')\n"
        "except UnsupportedMediaError: print('invalid')\n"
    )

    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "invalid\n"
    )
