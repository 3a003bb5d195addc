"""The options of `aesthetic_emotion`. Imports no torch: a gateway starts without it."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, PositiveFloat

from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation

HEADS = ("aesthetics", "emotion")


Mode = Literal["nddr", "cross_stitch", "none", "shared"]


class AestheticEmotionConfig(Frozen):
    """Options of the network.

    Modes: "nddr" and "cross_stitch" join the branches, "none" is two separate networks, "shared" is one.
    """

    image: ImageEncoderConfig
    size: int = Field(224, ge=32, description="side of the input, in pixels")
    augmentation: Augmentation = Augmentation()
    mode: Mode = "nddr"
    stages: int = Field(4, gt=0, description="number of last stages that are followed by a cross-branch layer")
    own: float = Field(0.9, description="initial weight of a joined branch's own map")
    other: float = Field(0.1, description="initial weight of the other branch's map")
    norm: bool = Field(True, description="BatchNorm in nddr; without it pretrained branches start unchanged")
    trunk: bool = Field(
        False, description="share the stages before the first cross-branch layer, which halves their work"
    )
    emotion_weight: float = Field(1.0, ge=0, description="λ of the loss")
    balance: float = Field(
        0.5, ge=0, le=1, description="classes count in the loss by their frequency to the power of minus this"
    )
    temperatures: Mapping[str, PositiveFloat] = Field(
        default_factory=dict, description="divide the logits that each head serves; fitted on the validation split"
    )
    class_scores: tuple[float, ...] = Field(
        (), description="mean annotated score of each class of aesthetics; set from the data"
    )
    class_weights: Mapping[str, tuple[float, ...]] = Field(
        default_factory=dict, description="of each head's classes in the loss; set from the data"
    )
