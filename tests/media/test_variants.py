"""One picture in every colour mode, orientation and animation decodes to the same pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from galleria.media.images import decode_image, media_type
from galleria.media.png import SIGNATURE
from tests.media.pictures import HEIGHT, WIDTH, chunk, distance, encoded, every_format, grey, picture, values

# EXIF orientation → the transposition a camera that was held so would have stored.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def with_alpha(mode: str) -> Image.Image:
    image = picture().convert(mode)
    image.putalpha(Image.new("L", image.size, 255))
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(grey()).astype(np.uint16) * 257)


def inverted(image: Image.Image) -> Image.Image:
    return Image.fromarray(65_535 - np.asarray(image))


def twelve_bits() -> bytes:
    """A TIFF file with two values in three bytes, which Pillow reads but does not write."""
    values = (np.asarray(grey()).astype(np.uint16) * 16 + 8).reshape(-1, 2)
    first, second = values[:, 0], values[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: HEIGHT, 279: len(packed)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    return head + packed + struct.pack("<H", len(tags)) + directory + bytes(4)


def animation(kind: str) -> bytes:
    later = ImageOps.invert(picture())
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(picture(), kind, save_all=True, append_images=[later, later], duration=50, **options)


COLOURED = {
    **every_format(),
    "palette": encoded(picture().quantize(255), "PNG"),
    "rgba": encoded(with_alpha("RGB"), "PNG"),
    "rgba webp": encoded(with_alpha("RGB"), "WEBP", lossless=True),
    "rgba tiff": encoded(with_alpha("RGB"), "TIFF"),
    "rgba avif": encoded(with_alpha("RGB"), "AVIF", quality=95),
    "rgba heic": encoded(with_alpha("RGB"), "HEIF", quality=95),
    "cmyk jpeg": encoded(picture().convert("CMYK"), "JPEG", quality=95),
    "cmyk tiff": encoded(picture().convert("CMYK"), "TIFF"),
    "ycbcr jpeg 4:4:4": encoded(picture(), "JPEG", quality=95, subsampling=0),
    "animated gif": animation("GIF"),
    "animated webp": animation("WEBP"),
    "animated png": animation("PNG"),
    "pages of a tiff": animation("TIFF"),
    "two pictures in a jpeg": encoded(picture(), "MPO", save_all=True, append_images=[grey().convert("RGB")]),
}
GREYS = {
    "8 bits": encoded(grey(), "PNG"),
    "8 bits jpeg": encoded(grey(), "JPEG", quality=95),
    "8 bits with alpha": encoded(with_alpha("L"), "PNG"),
    "16 bits png": encoded(sixteen_bits(), "PNG"),
    "16 bits tiff": encoded(sixteen_bits(), "TIFF"),
    "16 bits tiff, white is zero": encoded(inverted(sixteen_bits()), "TIFF", tiffinfo={262: 0}),
    "12 bits tiff": twelve_bits(),
    "32 bits tiff": encoded(Image.fromarray(np.asarray(grey()).astype(np.int32) * 257), "TIFF"),
    "float tiff up to 1": encoded(Image.fromarray(np.asarray(grey()).astype(np.float32) / 255), "TIFF"),
    "float tiff up to 255": encoded(Image.fromarray(np.asarray(grey()).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", COLOURED)
def test_colour_variant_keeps_pixels(name):
    assert distance(decode_image(COLOURED[name]), picture()) < 5


@pytest.mark.parametrize("name", GREYS)
def test_grey_variant_keeps_pixels(name):
    assert distance(decode_image(GREYS[name]), grey().convert("RGB")) < 2


@pytest.mark.parametrize("orientation", STORED)
def test_turned_photo_is_set_upright(orientation):
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    stored = picture() if turn is None else picture().transpose(turn)

    upright = decode_image(encoded(stored, "PNG", exif=exif))

    assert upright.size == (WIDTH, HEIGHT)
    assert distance(upright, picture()) == 0


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[Base.Orientation] = orientation

    assert distance(decode_image(encoded(picture(), "PNG", exif=exif)), picture()) == 0


def test_damaged_metadata_is_ignored():
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"\xff\xff" + b"\x12\x01\x09\0" * 20

    assert distance(decode_image(encoded(picture(), "JPEG", quality=95, exif=exif)), picture()) < 5


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparency_is_laid_on_white(kind):
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    options = {"lossless": True} if kind == "WEBP" else {}

    shown = decode_image(encoded(half, kind, **options))

    expected = np.array([[0, 0, 0], [255, 255, 255]])
    assert np.abs(values(shown)[0] - expected).max() <= (2 if kind == "AVIF" else 0)  # which is lossy


@pytest.mark.parametrize(("colour_type", "black"), [(0, (258,)), (2, (258, 258, 258))])
def test_transparent_value_of_16_bits_is_white(colour_type, black):
    white = [65_535] * len(black)
    pixels = b"\0" + struct.pack(f">{2 * len(black)}H", *black, *white)
    content = SIGNATURE + b"".join(
        chunk(name, part)
        for name, part in (
            (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, colour_type, 0, 0, 0)),
            (b"tRNS", struct.pack(f">{len(black)}H", *black)),
            (b"IDAT", zlib.compress(pixels)),
            (b"IEND", b""),
        )
    )

    opaque = decode_image(content.replace(chunk(b"tRNS", struct.pack(f">{len(black)}H", *black)), b""))

    assert values(opaque)[0].tolist() == [[1, 1, 1], [255, 255, 255]]
    assert values(decode_image(content)).min() == 255


def test_half_transparent_black_is_grey():
    assert decode_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")).getpixel((0, 0)) == (127,) * 3


def test_palette_transparency_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)

    for kind in ("PNG", "GIF"):
        shown = decode_image(encoded(image, kind, transparency=0))
        assert [shown.getpixel((0, 0)), shown.getpixel((1, 0))] == [(255, 255, 255), (200, 100, 50)]


def test_bilevel_picture_is_read():
    image = Image.new("1", (9, 2), 1)
    image.putpixel((0, 0), 0)

    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        assert values(decode_image(encoded(image, kind)))[0, :2, 0].tolist() == [0, 255]


def test_dark_16_bit_picture_stays_dark():
    dark = Image.fromarray(np.full((4, 4), 200, np.uint16))  # 200 of 65,535

    assert decode_image(encoded(dark, "PNG")).getpixel((0, 0)) == (0, 0, 0)


def test_float_picture_with_nan_is_read():
    holed = np.full((4, 4), 0.5, np.float32)
    holed[0, 0] = np.nan

    shown = decode_image(encoded(Image.fromarray(holed), "TIFF"))

    assert [shown.getpixel((0, 0)), shown.getpixel((1, 1))] == [(0, 0, 0), (127, 127, 127)]


def test_result_is_rgb_without_file():
    content = encoded(picture().quantize(16), "GIF")

    decoded = decode_image(content)

    assert decoded.mode == "RGB"
    assert encoded(decoded, "PNG") == encoded(decode_image(content), "PNG")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("jpeg", "jpeg"), ("png", "png"), ("webp", "webp"), ("gif", "gif"), ("bmp", "bmp"), ("tiff", "tiff")],
)
def test_media_type_is_detected_by_content(name, expected):
    assert media_type(every_format()[name]) == f"image/{expected}"


def test_mpo_is_reported_as_jpeg():
    content = COLOURED["two pictures in a jpeg"]

    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert media_type(content) == "image/jpeg"
