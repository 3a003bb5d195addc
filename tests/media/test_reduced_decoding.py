"""A large JPEG that is needed small is decoded small, with the same pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base

from galleria.errors import BrokenMediaError, MediaTooLargeError
from galleria.media.images import REDUCING_GAP, decode_image, media_type, to_pixels
from galleria.media.limits import Limits
from tests.media.pictures import distance, encoded, picture


def photograph(width: int, height: int) -> Image.Image:
    """Edges, colours and grain at every scale."""
    generator = np.random.default_rng(0)
    layers = [
        Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).resize((width, height))
        for side in (3, 11, 47, 160)
    ]
    return Image.fromarray(np.mean([np.asarray(layer, np.float64) for layer in layers], 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("fit", "size"),
    [
        (400, (1200, 900)),  # 1200 / (3 · 400) = 1
        (201, (1200, 900)),
        (200, (600, 450)),  # … = 2: a half
        (100, (300, 225)),
        (50, (150, 113)),  # … = 8: an eighth, and no less
        (1, (150, 113)),
    ],
)
def test_jpeg_is_decoded_reduced(fit, size):
    assert decode_image(encoded(photograph(1200, 900), "JPEG"), fit=fit).size == size


@settings(deadline=None, max_examples=60, derandomize=True)
@given(width=st.integers(1, 500), height=st.integers(1, 500), fit=st.integers(1, 150))
def test_reduced_jpeg_is_large_enough(width, height, fit):
    reduced = decode_image(encoded(Image.new("RGB", (width, height)), "JPEG"), fit=fit)

    assert max(reduced.size) >= min(max(width, height), REDUCING_GAP * fit)
    assert to_pixels(reduced, fit).shape == (3, fit, fit)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (1024, 1024), (1111, 777)])
def test_reduced_pixels_equal_full_ones(size, options):
    content = encoded(photograph(*size), "JPEG", quality=90, **options)

    reduced, whole = decode_image(content, fit=112), decode_image(content)

    assert reduced.size[0] < whole.size[0]
    difference = to_pixels(reduced, 112).astype(np.float64) - to_pixels(whole, 112)
    assert np.abs(difference).mean() < 1  # of 255 grey levels


def test_turned_photo_is_set_upright():
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    stored = photograph(1200, 900).transpose(Image.Transpose.ROTATE_90)

    upright = decode_image(encoded(stored, "JPEG", quality=95, exif=exif), fit=100)

    assert upright.size == (300, 225)
    assert distance(upright, photograph(1200, 900).reduce(4)) < 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_reduced(mode):
    content = encoded(photograph(1200, 900).convert(mode), "JPEG", quality=95)

    reduced = decode_image(content, fit=100)

    assert (reduced.mode, reduced.size) == ("RGB", (300, 225))
    assert distance(reduced, decode_image(content).reduce(4)) < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_are_not_reduced(kind):
    content = encoded(picture(), kind)

    assert distance(decode_image(content, fit=2), decode_image(content)) == 0


def test_small_jpeg_is_not_reduced():
    content = encoded(picture(), "JPEG")

    assert distance(decode_image(content, fit=48), decode_image(content)) == 0


def test_truncated_jpeg_is_rejected():
    content = encoded(photograph(1200, 900), "JPEG")

    for share in (0.3, 0.6, 0.9, 0.99):
        with pytest.raises(BrokenMediaError):
            decode_image(content[: int(share * len(content))], fit=20)


def test_limits_apply_to_decoded_size():
    content, limits = encoded(photograph(1200, 900), "JPEG"), Limits(image_pixels=300_000)

    assert decode_image(content, limits, fit=100).size == (300, 225)
    assert media_type(content, limits) == "image/jpeg"
    for fit in (None, 400):
        with pytest.raises(MediaTooLargeError, match="1200 × 900"):
            decode_image(content, limits, fit=fit)


def test_larger_jpeg_than_any_phones_is_rejected():
    content, limits = encoded(photograph(1200, 900), "JPEG"), Limits(image_pixels=1200 * 900 // 4 - 1)

    for read in (decode_image, media_type):
        with pytest.raises(MediaTooLargeError, match="1200 × 900"):
            read(content, limits)


def test_other_formats_have_no_reduced_size():
    with pytest.raises(MediaTooLargeError, match="1200 × 900"):
        decode_image(encoded(photograph(1200, 900), "PNG"), Limits(image_pixels=1_000_000), fit=20)
