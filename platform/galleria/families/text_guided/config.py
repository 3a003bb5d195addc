"""The options of `text_guided`. Imports no torch: a gateway starts without it."""

from typing import Literal

from pydantic import Field

from galleria.learn.encoders.config import ImageEncoderConfig, TextEncoderConfig
from galleria.learn.losses.mining import Mining
from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation


class LossWeights(Frozen):
    """Weights of the terms; 0 leaves a term out.

    The difference alone is minimal for one constant vector (every picture and text alike), so it must be
    combined with a term that separates products.
    """

    difference: float = Field(1.0, ge=0, description="mean‖v − t‖²")
    image_softmax: float = Field(1.0, ge=0, description="softmax over training products on v")
    text_softmax: float = Field(0.5, ge=0, description="softmax over training products on t")
    sigmoid: float = Field(0.0, ge=0, description="label-aware sigmoid loss between v and t")
    contrastive: float = Field(0.0, ge=0, description="supervised contrastive loss between pictures of a product")
    alignment: float = Field(0.0, ge=0, description="supervised contrastive loss between pictures and texts")


class TextGuidedConfig(Frozen):
    """Options of the network. `text=None` has no text tower; `classes=0` no training heads."""

    image: ImageEncoderConfig
    text: TextEncoderConfig | None = None
    size: int = Field(224, ge=32, description="side of the input, in pixels")
    augmentation: Augmentation = Augmentation()
    head: Literal["projection", "none"] = Field("projection", description="'none': the backbone's own features")
    dimension: int = Field(256, gt=0)
    slices: tuple[int, ...] = Field(
        (32, 64, 128, 256), description="Matryoshka: leading dimensions trained to serve alone"
    )
    classes: int = Field(0, ge=0, description="training products; set from the data")
    losses: LossWeights = LossWeights()
    scale: float = Field(16.0, gt=0, description="s of the softmax terms")
    sampled_classes: int = Field(
        0, ge=0, description="sampled softmax: products that a step scores, those of the batch included; 0 is all"
    )
    mining: Mining = Mining()
    contrastive_temperature: float = Field(0.1, gt=0)
    alignment_temperature: float = Field(0.05, gt=0)
    warm_start: bool = Field(False, description="start the heads from a discriminant analysis of the features")
    keep_text: bool = Field(True, description="export the text tower too, for text queries")
