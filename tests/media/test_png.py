"""Large metadata of a PNG picture does no harm, and its small metadata counts."""

import zlib

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from galleria.errors import BrokenMediaError
from galleria.media.images import decode_image, media_type
from galleria.media.png import MAX_CHUNKS, MAX_METADATA_BYTES, without_large_metadata
from tests.media.pictures import chunk, distance, encoded, picture

HEADER_END = 33
PNG = encoded(picture(), "PNG")
LONG = b"x" * (MAX_METADATA_BYTES + 1)
LARGE = {
    "text": [chunk(b"tEXt", b"Comment\0" + LONG)],
    "compressed text": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG))],
    "compressed international text": [chunk(b"iTXt", b"Comment\0\1\0en\0Comment\0" + zlib.compress(LONG))],
    "international text": [chunk(b"iTXt", b"Comment\0\0\0en\0Comment\0" + LONG)],
    "profile": [chunk(b"iCCP", b"Profile\0\0" + zlib.compress(LONG))],
    "many texts": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG[1000:]))] * 80,
}


@pytest.mark.parametrize("position", [HEADER_END, len(PNG) - 12], ids=["before pixels", "after pixels"])
@pytest.mark.parametrize("name", LARGE)
def test_large_metadata_is_left_out(name, position):
    content = PNG[:position] + b"".join(LARGE[name]) + PNG[position:]

    assert distance(decode_image(content), picture()) == 0
    assert media_type(content) == "image/png"


def test_picture_without_large_metadata_is_same():
    texts = PngInfo()
    texts.add_text("Comment", "a text")
    texts.add_itxt("Comment", "ein Text", zip=True)
    content = encoded(picture(), "PNG", pnginfo=texts, icc_profile=b"profile")

    assert without_large_metadata(content) is content


def test_turned_picture_with_large_text_is_upright():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    content = encoded(picture().transpose(Image.Transpose.ROTATE_180), "PNG", exif=exif)
    large = content[:HEADER_END] + LARGE["text"][0] + content[HEADER_END:]

    assert distance(decode_image(large), picture()) == 0


def test_endless_chunks_are_damage():
    content = PNG[:HEADER_END] + chunk(b"teSt", b"") * MAX_CHUNKS + PNG[HEADER_END:]

    for read in (media_type, decode_image):
        with pytest.raises(BrokenMediaError, match="more than 100,000 chunks"):
            read(content)
