"""Pictures as input of networks, in training with random changes from a seeded generator."""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from galleria.learn.recipe import Frozen
from galleria.media.images import decode_image, fit_square, to_pixels

WHITE = [255, 255, 255]


class Augmentation(Frozen):
    """How far a picture may be changed. The defaults change nothing."""

    rotation: float = Field(0.0, ge=0, le=180, description="largest angle, in degrees")
    shift: float = Field(0.0, ge=0, lt=1, description="largest move along each side, as a share of it")
    smallest: float = Field(1.0, gt=0, le=1, description="smallest zoom; what is uncovered is white")
    largest: float = Field(1.0, ge=1, description="largest zoom; what leaves the frame is lost")
    shear: float = Field(0.0, ge=0, lt=90, description="largest shear, in degrees")
    flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring left and right")
    brightness: float = Field(0.0, ge=0, le=1, description="largest relative change")
    contrast: float = Field(0.0, ge=0, le=1, description="largest relative change")
    saturation: float = Field(0.0, ge=0, le=1, description="largest relative change")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest shift, in turns of the colour wheel")
    grey: float = Field(0.0, ge=0, le=1, description="probability of dropping colour")
    blur: float = Field(0.0, ge=0, le=1, description="probability of a 3 × 3 Gaussian blur")
    sharpening: float = Field(0.0, ge=0, le=1, description="probability of doubling the sharpness")
    noise: float = Field(
        0.0, ge=0, le=1, description="largest standard deviation of Gaussian noise, as a share of the pixels' range"
    )


def picture_pixels(
    data: bytes | None, size: int, limits: Augmentation, generator: np.random.Generator | None
) -> NDArray[np.uint8]:
    """Decode a picture to uint8 `[3, size, size]`; with a generator, one random variant of it.

    Raises:
        DataError: the picture cannot be read.
    """
    image = decode_image(data or b"", fit=size)
    if generator is not None:
        image = augment(fit_square(image, size), limits, generator)
    return to_pixels(image, size)


def augment(image: Image.Image, limits: Augmentation, generator: np.random.Generator) -> Image.Image:
    """Return one random variant of an RGB picture, of the same size, with torchvision's functions."""
    from torchvision.transforms.v2 import functional  # here: a service reads pictures without it

    image = _move(image, limits, generator)
    if generator.random() < limits.flip:
        image = functional.horizontal_flip(image)
    for change, limit in (
        (functional.adjust_brightness, limits.brightness),
        (functional.adjust_contrast, limits.contrast),
        (functional.adjust_saturation, limits.saturation),
    ):
        if limit:
            image = change(image, generator.uniform(1 - limit, 1 + limit))
    if limits.hue:
        image = functional.adjust_hue(image, generator.uniform(-limits.hue, limits.hue))
    if generator.random() < limits.grey:
        image = functional.to_grayscale(image, 3)
    if generator.random() < limits.blur and min(image.size) > 1:  # one line of pixels has no neighbours to mirror
        image = functional.gaussian_blur(image, [3, 3])
    if limits.sharpening and generator.random() < limits.sharpening:
        image = functional.adjust_sharpness(image, 2.0)
    return _add_noise(image, generator.uniform(0, limits.noise), generator) if limits.noise else image


def _add_noise(image: Image.Image, deviation: float, generator: np.random.Generator) -> Image.Image:
    # Not torchvision's gaussian_noise, which draws from the generator of all of torch.
    pixels = np.asarray(image, np.float32)
    noisy = pixels + 255 * deviation * generator.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _move(image: Image.Image, limits: Augmentation, generator: np.random.Generator) -> Image.Image:
    angle = generator.uniform(-limits.rotation, limits.rotation)
    shift = generator.uniform(-limits.shift, limits.shift, 2) * image.size
    zoom = float(np.exp(generator.uniform(np.log(limits.smallest), np.log(limits.largest))))
    shear = generator.uniform(-limits.shear, limits.shear)
    if (angle, zoom, shear) == (0, 1, 0) and not shift.any():
        return image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    moved = functional.affine(
        image, angle, shift.round().astype(int).tolist(), zoom, [shear, 0.0], InterpolationMode.BILINEAR, WHITE
    )
    return cast(Image.Image, moved)
