"""The size of a WebP picture is read from its header as libwebp reads it."""

import pytest
from PIL import Image

from galleria.errors import BrokenMediaError, MediaTooLargeError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.media.webp import webp_size
from tests.media.pictures import encoded, every_format, picture
from tests.media.test_bad_bytes import BOMBS
from tests.media.test_variants import animation
from tests.soak import rounds

ALPHA = Image.new("RGBA", (31, 17), (9, 9, 9, 9))
PICTURES = {
    **{name: content for name, content in every_format().items() if name.startswith("webp")},
    "alpha": encoded(ALPHA, "WEBP"),
    "alpha lossless": encoded(ALPHA, "WEBP", lossless=True),
    "animated": animation("WEBP"),
    "with exif": encoded(picture(), "WEBP", exif=Image.Exif()),
    "one pixel": encoded(Image.new("RGB", (1, 1)), "WEBP"),
    "wide": encoded(Image.new("RGB", (16_383, 2)), "WEBP"),
    "high": encoded(Image.new("RGB", (2, 16_383)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_size_equals_libwebp(name, tmp_path):
    (tmp_path / "picture").write_bytes(PICTURES[name])
    with Image.open(tmp_path / "picture") as image:
        assert webp_size(PICTURES[name]) == image.size
    assert media_type(PICTURES[name]) == "image/webp"


def test_random_sizes_equal_libwebp():
    for random in rounds(20):
        size = random.randrange(1, 400), random.randrange(1, 400)
        content = encoded(Image.new(random.choice(("RGB", "RGBA")), size), "WEBP", lossless=random.random() < 0.5)
        assert webp_size(content) == size


@pytest.mark.parametrize("name", PICTURES)
def test_cut_header_is_damaged(name):
    for length in range(12, 30):
        with pytest.raises(BrokenMediaError):
            media_type(PICTURES[name][:length])


@pytest.mark.parametrize("chunk", [b"VP8 ", b"VP8L", b"ALPH", b"\0\0\0\0"])
def test_noise_in_header_is_damaged(chunk):
    with pytest.raises(BrokenMediaError):
        media_type(b"RIFF\x64\0\0\0WEBP" + chunk + b"\x58\0\0\0" + bytes(range(100)))


def test_pixels_over_limit_are_rejected():
    with pytest.raises(MediaTooLargeError, match="16383 × 16383 pixels, over the limit"):
        media_type(BOMBS["webp"])
    assert media_type(PICTURES["one pixel"], Limits(image_pixels=1)) == "image/webp"
