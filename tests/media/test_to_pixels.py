"""A picture is fitted into a white square, never stretched or cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from galleria.media.images import to_pixels


def black(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (0, 0, 0))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(1, 64))
def test_every_shape_becomes_channels_by_size_by_size(width, height, size):
    pixels = to_pixels(black(width, height), size)

    assert (pixels.shape, pixels.dtype) == ((3, size, size), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.min() == 0


@pytest.mark.parametrize(
    ("width", "height", "inked"), [(40, 20, (8, 4)), (20, 40, (4, 8)), (4, 2, (8, 4)), (5, 5, (8, 8))]
)
def test_proportions_are_kept_whether_it_shrinks_or_grows(width, height, inked):
    dark = to_pixels(black(width, height), 8)[0] == 0

    assert (dark.any(0).sum(), dark.any(1).sum()) == inked
    assert dark.sum() == inked[0] * inked[1]


def test_the_margin_is_white_and_the_picture_in_the_middle():
    assert to_pixels(black(4, 2), 4)[1].tolist() == [[255] * 4, [0] * 4, [0] * 4, [255] * 4]


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1)])
def test_a_strip_keeps_one_line(width, height):
    dark = to_pixels(black(width, height), 32)[0] == 0

    assert dark.sum() == 32
    assert sorted((dark.any(0).sum(), dark.any(1).sum())) == [1, 32]


def test_a_picture_of_the_right_size_is_unchanged():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))

    assert np.array_equal(to_pixels(image, 16).transpose(1, 2, 0), np.asarray(image))
