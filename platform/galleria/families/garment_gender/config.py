"""The options of `garment_gender`. Imports no torch: a gateway starts without it."""

from typing import Literal

from pydantic import Field

from galleria.families.garment_gender.contours import ContourSource
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation

TARGETS = ("female", "male")
"""Whom a garment is made for; both is unisex."""


class ColourChange(Frozen):
    """How far the colours of training pictures may change (CN113298092B). The defaults change nothing."""

    swap_share: float = Field(0.0, ge=0, lt=0.2, description="largest share of an epoch's pictures with other channels")
    shift: float = Field(0.0, ge=0, le=0.1, description="largest shift of one channel, as a share of its range")


class GarmentGenderConfig(Frozen):
    """Options of the network."""

    image: ImageEncoderConfig = Field(description="the first gender network")
    contour: Literal["none", "frozen", "random", "end_to_end"] = Field(
        "frozen", description="its features: none, from its bundle, of random weights, or trained end to end"
    )
    source: ContourSource = ContourSource()
    head: Literal["convolutions", "linear"] = Field("convolutions", description="the second gender network")
    answer: Literal["one", "several"] = Field("one", description="softmax, or a sigmoid for each so that both may hold")
    temperature: float = Field(1.0, gt=0, description="divides the logits it serves; fitted on the validation split")
    size: int = Field(224, ge=32, multiple_of=8, description="side of the input, in pixels")
    colour: ColourChange = ColourChange()
    augmentation: Augmentation = Augmentation()
