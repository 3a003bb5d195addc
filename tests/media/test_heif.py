"""The size of an AVIF or HEIC picture is read from its boxes as the decoders read it."""

import sys

import pytest
from PIL import Image

from galleria.errors import BrokenMediaError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.heif import heif_kind, heif_size
from galleria.media.images import decode_image, media_type
from galleria.media.limits import Limits
from tests.media.pictures import encoded, picture
from tests.soak import rounds

BLOCK = 64
PICTURES = {
    "avif": encoded(picture(), "AVIF"),
    "avif with alpha": encoded(Image.new("RGBA", (31, 17), (9, 9, 9, 9)), "AVIF"),
    "animated avif": encoded(picture(), "AVIF", save_all=True, append_images=[Image.new("RGB", picture().size)]),
    "avif grid": encoded(picture().resize((640, 480)), "AVIF", tile_rows=1, tile_cols=1),
    "heic": encoded(picture(), "HEIF"),
    "heic with alpha": encoded(Image.new("RGBA", (32, 18), (9, 9, 9, 9)), "HEIF"),
    "heic with several": encoded(picture(), "HEIF", save_all=True, append_images=[Image.new("RGB", (16, 16))]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_size_equals_decoders(name):
    content = PICTURES[name]

    sides = zip(heif_size(content), decode_image(content).size, strict=True)
    assert all(0 <= coded - shown < (BLOCK if "heic" in name else 1) for coded, shown in sides)
    assert media_type(content) == f"image/{name.split()[1] if name.startswith('animated') else name.split()[0]}"


def test_random_sizes_equal_decoders():
    for random in rounds(10):
        size = random.randrange(1, 400), random.randrange(1, 400)
        assert heif_size(encoded(Image.new("RGB", size), "AVIF")) == size


@pytest.mark.parametrize("name", PICTURES)
def test_cut_header_is_damaged(name):
    for length in range(16, 120, 8):
        with pytest.raises(BrokenMediaError):
            media_type(PICTURES[name][:length])


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_pixels_over_limit_are_rejected(name):
    width, height = heif_size(PICTURES[name])

    assert media_type(PICTURES[name], Limits(image_pixels=width * height))
    for read in (media_type, decode_image):
        with pytest.raises(MediaTooLargeError, match=f"{width} × {height} pixels, over the limit"):
            read(PICTURES[name], Limits(image_pixels=width * height - 1))


def test_other_files_with_boxes_are_not_pictures():
    assert heif_kind(b"\0\0\0\x18ftypisom\0\0\0\0isommp42") is None
    with pytest.raises(UnsupportedMediaError):
        media_type(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")


def test_missing_package_of_heic_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed

    with pytest.raises(UnsupportedMediaError, match=r"pip install 'galleria\[heic\]', or send JPEG"):
        decode_image(PICTURES["heic"])
    assert decode_image(PICTURES["avif"]).size == picture().size
