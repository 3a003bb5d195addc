"""Augmentation changes what it may, no further than it may, and repeats for a generator's seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from galleria.errors import BrokenMediaError
from galleria.learn.training.augmentation import Augmentation, augment, picture_pixels
from galleria.media.images import decode_image, to_pixels
from tests.media.pictures import encoded

EVERYTHING = Augmentation(
    rotation=45,
    shift=0.2,
    smallest=0.5,
    largest=2,
    shear=20,
    flip=0.5,
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    hue=0.3,
    grey=0.3,
    blur=0.3,
    sharpening=0.3,
    noise=0.1,
)


def picture(width: int = 20, height: int = 10) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def variants(limits: Augmentation, image: Image.Image, count: int = 50) -> list[Image.Image]:
    return [augment(image, limits, np.random.default_rng(seed)) for seed in range(count)]


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


def ink(limits: Augmentation, count: int = 50) -> list[np.ndarray]:
    """Where a wholly black picture is still black, in many variants."""
    return [np.asarray(one)[:, :, 0] < 128 for one in variants(limits, Image.new("RGB", (100, 100)), count)]


def test_augment_defaults_change_nothing():
    assert all(pixels(one) == pixels(picture()) for one in variants(Augmentation(), picture(), 5))


def test_noise_stays_within_deviation():
    grey = Image.new("RGB", (60, 60), (128, 128, 128))
    deviations = [np.std(np.asarray(one)) / 255 for one in variants(Augmentation(noise=0.1), grey)]

    assert 0.08 < max(deviations) < 0.105
    assert min(deviations) < 0.03
    colours = np.asarray(variants(Augmentation(noise=0.1), grey, 1)[0], np.int64)
    assert (colours[..., 0] != colours[..., 1]).any()  # each channel has its own


def test_sharpening_raises_contrast_of_edges():
    edge = Image.fromarray(np.repeat(np.linspace(60, 200, 12, dtype=np.uint8)[None, :, None], 12, 0).repeat(3, 2))
    edge.paste((60, 60, 60), (0, 0, 6, 12))
    changed = [pixels(one) != pixels(edge) for one in variants(Augmentation(sharpening=0.5), edge, 100)]
    [sharp] = variants(Augmentation(sharpening=1), edge, 1)

    assert 30 < sum(changed) < 70
    assert np.std(np.asarray(sharp)) > np.std(np.asarray(edge))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(width=st.integers(1, 60), height=st.integers(1, 60), seed=st.integers(0, 1000))
def test_augment_keeps_size(width, height, seed):
    changed = augment(picture(width, height), EVERYTHING, np.random.default_rng(seed))

    assert (changed.mode, changed.size) == ("RGB", (width, height))


def test_augment_depends_on_seed():
    again = [pixels(one) for one in variants(EVERYTHING, picture(), 8)]

    assert again == [pixels(one) for one in variants(EVERYTHING, picture(), 8)]
    assert all(one != other for index, one in enumerate(again) for other in again[:index])


def test_augment_leaves_input_unchanged():
    image = picture()
    variants(EVERYTHING, image, 5)

    assert pixels(image) == pixels(picture())


@pytest.mark.parametrize(("probability", "mirrored"), [(0, 0), (1, 50)])
def test_flip_mirrors_left_and_right(probability, mirrored):
    turned = pixels(picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    assert sum(pixels(one) == turned for one in variants(Augmentation(flip=probability), picture())) == mirrored


def test_flip_follows_its_probability():
    turned = pixels(picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    assert 60 < sum(pixels(one) == turned for one in variants(Augmentation(flip=0.5), picture(), 200)) < 140


def test_rotation_fills_corners_with_white():
    found = ink(Augmentation(rotation=45))

    assert all(dark[50, 50] for dark in found)
    assert not all(dark[0, 0] for dark in found)


def test_rotation_stays_within_limit():
    assert min(dark.mean() for dark in ink(Augmentation(rotation=5))) > 0.94
    assert min(dark.mean() for dark in ink(Augmentation(rotation=45))) < 0.9


def test_shift_stays_within_limit():
    found = ink(Augmentation(shift=0.1))

    columns = [dark.any(0).sum() for dark in found]
    rows = [dark.any(1).sum() for dark in found]

    assert 90 <= min(columns) < 94
    assert 90 <= min(rows) < 94
    assert all(dark.sum() == wide * high for dark, wide, high in zip(found, columns, rows, strict=True))


def test_zoom_out_leaves_white_within_limit():
    shares = [dark.mean() for dark in ink(Augmentation(smallest=0.5))]

    assert 0.23 < min(shares) < 0.35
    assert max(shares) > 0.8


def test_zoom_in_enlarges_the_middle():
    spot = Image.new("RGB", (100, 100), (255, 255, 255))
    spot.paste((0, 0, 0), (40, 40, 60, 60))

    areas = [(np.asarray(one)[:, :, 0] < 128).sum() for one in variants(Augmentation(largest=2), spot)]

    assert all(dark.all() for dark in ink(Augmentation(largest=2)))
    assert 380 < min(areas) < 600
    assert 1200 < max(areas) < 1700


def test_shear_slants_lines():
    slanted = [dark for dark in ink(Augmentation(shear=20)) if not dark.all()]

    assert len(slanted) > 40
    assert all(dark[50, 50] for dark in slanted)


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_limit_changes_colours(change):
    found = variants(Augmentation(**{change: 0.3}), picture(), 10)

    assert all(pixels(one) != pixels(picture()) for one in found)


def test_brightness_stays_within_limit():
    grey = Image.new("RGB", (1, 1), (100,) * 3)

    levels = [np.asarray(one)[0, 0, 0] for one in variants(Augmentation(brightness=0.2), grey)]

    assert 79 <= min(levels) < 85
    assert 115 < max(levels) <= 120


def test_grey_keeps_three_channels():
    for one in variants(Augmentation(grey=1), picture(), 3):
        values = np.asarray(one)
        assert (values == values[:, :, :1]).all()


def test_blur_smooths_edges():
    edge = Image.new("RGB", (10, 10))
    edge.paste((255, 255, 255), (5, 0, 10, 10))

    for one in variants(Augmentation(blur=1), edge, 3):
        row = np.asarray(one)[5, :, 0].astype(int)
        assert row[0] == 0
        assert 0 < row[4] < row[5] < 255


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": 181},
        {"shift": 1},
        {"smallest": 0},
        {"smallest": 1.1},
        {"largest": 0.9},
        {"flip": 1.1},
        {"hue": 0.6},
        {"grey": -0.1},
        {"blurr": 1},
    ],
)
def test_augmentation_rejects_invalid_limits(options):
    with pytest.raises(ValidationError):
        Augmentation(**options)


def test_picture_pixels_augments_in_training():
    content = encoded(picture(40, 30), "PNG")

    plain, once, again, other = (
        picture_pixels(content, 16, EVERYTHING, None if seed is None else np.random.default_rng(seed))
        for seed in (None, 1, 1, 2)
    )

    assert np.array_equal(plain, to_pixels(picture(40, 30), 16))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, plain)
    assert not np.array_equal(once, other)
    assert {found.shape for found in (plain, once, other)} == {(3, 16, 16)}


def test_picture_pixels_decodes_jpeg_reduced():
    content = encoded(picture(600, 400), "JPEG")

    pixels = picture_pixels(content, 16, EVERYTHING, None)

    assert np.array_equal(pixels, to_pixels(decode_image(content, fit=16), 16))
    assert not np.array_equal(pixels, to_pixels(decode_image(content), 16))


@pytest.mark.parametrize("data", [None, b""])
def test_picture_pixels_rejects_missing_data(data):
    with pytest.raises(BrokenMediaError, match="empty"):
        picture_pixels(data, 16, EVERYTHING, None)
