"""Random changes to a training picture, drawn from a given generator so that a run repeats exactly."""

from typing import cast

import numpy as np
from PIL import Image
from pydantic import Field
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from galleria.learn.recipe import Frozen


class Augmentation(Frozen):
    """How far a picture may be changed. The defaults change nothing."""

    smallest_crop: float = Field(1.0, gt=0, le=1, description="smallest share of the area that is kept")
    aspect: float = Field(1.0, ge=1, description="largest stretch of a crop's width against its height")
    flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring left and right")
    rotation: float = Field(0.0, ge=0, le=180, description="largest angle, in degrees")
    zoom_out: float = Field(0.0, ge=0, lt=1, description="largest share of the side given up to white margin")
    brightness: float = Field(0.0, ge=0, le=1, description="largest relative change")
    contrast: float = Field(0.0, ge=0, le=1, description="largest relative change")
    saturation: float = Field(0.0, ge=0, le=1, description="largest relative change")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest shift, in turns of the colour wheel")
    grey: float = Field(0.0, ge=0, le=1, description="probability of dropping colour")


def augment(image: Image.Image, limits: Augmentation, generator: np.random.Generator) -> Image.Image:
    """One random variant of an RGB picture, with torchvision's functions."""
    if limits.rotation:
        angle = generator.uniform(-limits.rotation, limits.rotation)
        image = functional.rotate(image, angle, InterpolationMode.BILINEAR, fill=[255, 255, 255])
    if limits.zoom_out:
        margin = round(generator.uniform(0, limits.zoom_out) * max(image.size) / 2)
        image = functional.pad(image, [margin] * 4, fill=[255, 255, 255])
    if limits.smallest_crop < 1:
        image = _crop(image, limits, generator)
    if generator.random() < limits.flip:
        image = functional.horizontal_flip(image)
    for change, most in (
        (functional.adjust_brightness, limits.brightness),
        (functional.adjust_contrast, limits.contrast),
        (functional.adjust_saturation, limits.saturation),
    ):
        if most:
            image = change(image, generator.uniform(1 - most, 1 + most))
    if limits.hue:
        image = functional.adjust_hue(image, generator.uniform(-limits.hue, limits.hue))
    if generator.random() < limits.grey:
        image = functional.to_grayscale(image, 3)
    return image


def _crop(image: Image.Image, limits: Augmentation, generator: np.random.Generator) -> Image.Image:
    area = generator.uniform(limits.smallest_crop, 1)
    stretch = np.exp(generator.uniform(-np.log(limits.aspect), np.log(limits.aspect)) / 2)
    width = min(image.width, max(1, round(image.width * np.sqrt(area) * stretch)))
    height = min(image.height, max(1, round(image.height * np.sqrt(area) / stretch)))
    left = int(generator.integers(0, image.width - width + 1))
    top = int(generator.integers(0, image.height - height + 1))
    return cast(Image.Image, functional.crop(image, top, left, height, width))
