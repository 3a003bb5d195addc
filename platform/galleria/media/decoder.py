"""Where pictures and videos are decoded: in this process, or in a decoder that a block of code names."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galleria.media.limits import Limits


class Decoder(Protocol):
    """Decodes bytes elsewhere, with the results and errors of `decode_image` and `sample_frames`."""

    def image(self, data: bytes, limits: Limits, fit: int | None) -> Image.Image:
        """Return an RGB picture, as `galleria.media.images.decode_image` does."""

    def frames(
        self, data: bytes, rate: float, max_frames: int, size: int, limits: Limits, part: tuple[float, float]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return `pixels` and `seconds` of `galleria.media.videos.Frames`, as `sample_frames` does."""


current_decoder: ContextVar[Decoder | None] = ContextVar("current_decoder", default=None)
"""The decoder of this thread; None where it decodes itself."""


@contextlib.contextmanager
def decode_with(decoder: Decoder | None) -> Iterator[None]:
    """Decode with `decoder` while the block lasts, in this thread."""
    token = current_decoder.set(decoder)
    try:
        yield
    finally:
        current_decoder.reset(token)
