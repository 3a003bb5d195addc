"""Pictures with a colour profile look as their profile says, in sRGB."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from galleria.media.images import decode_image
from tests.media.pictures import distance, encoded, grey, picture, values
from tests.media.profiles import ADOBE, DISPLAY_P3, SRGB, expected_srgb, grey_profile, rgb_profile

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (0, 0, 0), (255, 255, 255), (128, 128, 128), (90, 140, 220)]
SPACES = {"Display P3": (DISPLAY_P3, 2.2), "Adobe RGB": (ADOBE, 2.2), "linear": (SRGB, 1.0), "gamma 1.8": (SRGB, 1.8)}
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def swatches(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (len(COLOURS), 1))
    image.putdata(COLOURS)
    return image.convert(mode)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("space", SPACES)
def test_colours_equal_formula(space, kind):
    content = encoded(swatches(), kind, icc_profile=rgb_profile(*SPACES[space]), **LOSSLESS[kind])

    expected = [expected_srgb(colour, *SPACES[space]) for colour in COLOURS]
    assert np.abs(values(decode_image(content))[0] - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "HEIF"])
def test_lossy_formats_are_converted(kind):
    content = encoded(Image.new("RGB", (64, 64), (200, 40, 40)), kind, icc_profile=rgb_profile(DISPLAY_P3, 2.2))

    assert np.abs(values(decode_image(content))[9, 9] - expected_srgb((200, 40, 40), DISPLAY_P3, 2.2)).max() <= 4


def test_palette_and_transparency_are_converted():
    profile = rgb_profile(DISPLAY_P3, 2.2)
    clear = swatches("RGBA")
    clear.putpixel((1, 0), (40, 200, 40, 0))

    expected = [expected_srgb(colour, DISPLAY_P3, 2.2) for colour in COLOURS]
    palette = decode_image(encoded(swatches().quantize(len(COLOURS)), "PNG", icc_profile=profile))
    assert np.abs(values(palette)[0] - expected).max() <= 2
    shown = values(decode_image(encoded(clear, "PNG", icc_profile=profile)))[0]
    assert shown[1].tolist() == [255, 255, 255]
    assert np.abs(np.delete(shown - expected, 1, 0)).max() <= 2


def test_grey_profile_is_converted():
    shown = decode_image(encoded(grey(), "PNG", icc_profile=grey_profile(1.0)))

    linear = np.asarray(grey()) / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(values(shown)[:, :, 0] - expected).max() <= 3


def test_srgb_profile_changes_nothing():
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_profile(SRGB, 2.2)[:0]):
        assert distance(decode_image(encoded(picture(), "PNG", icc_profile=profile)), picture()) == 0


@pytest.mark.parametrize(
    "profile",
    [b"no profile", rgb_profile(ADOBE, 2.2)[:200], bytes(500), grey_profile(1.0)],
    ids=["text", "cut", "zeros", "of grey"],
)
def test_invalid_profile_is_ignored(profile):
    assert distance(decode_image(encoded(picture(), "PNG", icc_profile=profile)), picture()) == 0


def test_turned_and_profiled_picture_is_both():
    exif = Image.Exif()
    exif[274] = 3
    stored = swatches().transpose(Image.Transpose.ROTATE_180)

    shown = decode_image(encoded(stored, "PNG", exif=exif, icc_profile=rgb_profile(ADOBE, 2.2)))

    expected = [expected_srgb(colour, ADOBE, 2.2) for colour in COLOURS]
    assert np.abs(values(shown)[0] - expected).max() <= 2
