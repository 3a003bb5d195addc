"""A picture is fitted into a white square, never stretched or cut."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from galleria.media.images import fit_square, to_pixels


def black(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (0, 0, 0))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(1, 64))
def test_every_shape_becomes_a_square(width, height, size):
    pixels = to_pixels(black(width, height), size)

    assert (pixels.shape, pixels.dtype) == ((3, size, size), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.min() == 0


@pytest.mark.parametrize(
    ("width", "height", "inked"), [(40, 20, (8, 4)), (20, 40, (4, 8)), (4, 2, (8, 4)), (5, 5, (8, 8))]
)
def test_proportions_are_kept(width, height, inked):
    dark = to_pixels(black(width, height), 8)[0] == 0

    assert (dark.any(0).sum(), dark.any(1).sum()) == inked
    assert dark.sum() == inked[0] * inked[1]


def test_margin_is_white_and_even():
    assert to_pixels(black(4, 2), 4)[1].tolist() == [[255] * 4, [0] * 4, [0] * 4, [255] * 4]


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1)])
def test_strip_keeps_one_line(width, height):
    dark = to_pixels(black(width, height), 32)[0] == 0

    assert dark.sum() == 32
    assert sorted((dark.any(0).sum(), dark.any(1).sum())) == [1, 32]


def test_right_size_is_unchanged():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))

    assert np.array_equal(to_pixels(image, 16).transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("size", [16, 64, 112, 224])
@pytest.mark.parametrize(
    ("width", "height"), [(256, 256), (97, 211), (640, 480), (72, 72), (13, 5), (224, 225), (1, 40), (113, 1)]
)
def test_values_equal_pillow(width, height, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    wide, high = (max(1, round(side * size / max(width, height))) for side in (width, height))
    left, top = (size - wide) // 2, (size - high) // 2

    shown = to_pixels(image, size).transpose(1, 2, 0)[top : top + high, left : left + wide]

    resized = image.resize((wide, high), Image.Resampling.BICUBIC, reducing_gap=3)
    difference = np.abs(shown.astype(int) - np.asarray(resized))
    assert difference.max() <= 8  # both round between their two directions, of which either may come first
    assert difference.mean() < 0.3


def test_values_hold_without_avx():
    program = "from tests.media.test_to_pixels import ramp; print(ramp().tolist())"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    plain = np.array(json.loads(output))

    assert np.abs(plain - ramp()).max() <= 2
    assert (np.diff(plain) > 0).all()


def ramp() -> np.ndarray:
    """A column of pixels of a picture that becomes brighter downwards, made smaller."""
    image = Image.fromarray(np.arange(0, 240, 6, np.uint8)[:, None, None].repeat(3, 2))
    return to_pixels(image, 16)[0, :, 7].astype(int)


def test_fit_square_equals_to_pixels():
    image = black(50, 20)

    fitted = fit_square(image, 16)

    assert (fitted.mode, fitted.size) == ("RGB", (16, 16))
    assert np.array_equal(np.asarray(fitted).transpose(2, 0, 1), to_pixels(image, 16))
    assert fit_square(fitted, 16) is fitted


def test_huge_picture_is_resized_alike():
    grain = np.random.default_rng(0).integers(0, 256, (150, 160, 3), np.uint8)
    image = Image.fromarray(grain.repeat(15, 0).repeat(15, 1))  # 2,400 × 2,250: over Pillow's 16 MB a piece
    with pytest.raises(ValueError, match="not contiguous"):
        pa.array(image)

    shown = to_pixels(image, 480).transpose(1, 2, 0)[15:465]

    assert np.abs(shown.astype(int) - np.asarray(image.resize((480, 450), Image.Resampling.BICUBIC))).max() <= 8
