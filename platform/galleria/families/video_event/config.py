"""The options of `video_event`. Imports no torch: a gateway starts without it."""

from typing import Literal

from pydantic import Field

from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation


class VideoEventConfig(Frozen):
    """Options of the network and of its input.

    `pooling` other than "attention" is for comparison: "mean" weighs all frames alike, "random" by weights that
    were drawn once for each position in the clip and never trained.
    """

    image: ImageEncoderConfig
    size: int = Field(224, ge=32, description="side of a frame, in pixels")
    rate: float = Field(1.0, gt=0, description="frames taken from one second of video")
    frames: int = Field(16, gt=0, description="T, largest number of frames of a video; a longer one is thinned evenly")
    augmentation: Augmentation = Augmentation()
    smallest_part: float = Field(1.0, gt=0, le=1, description="smallest share of a video in a training clip")
    labels: Literal["multi", "single"] = Field("multi", description="any number of events a video, or exactly one")
    pooling: Literal["attention", "mean", "random"] = "attention"
    rounds: tuple[int, ...] = Field((4, 2), description="rows of attention in each round")
    attention: int = Field(128, gt=0, description="width of the layers that score frames")
    hidden: int = Field(256, ge=0, description="width of the classifier's hidden layer; 0 makes it linear")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the pooled features dropped in training")
    penalty: float = Field(0.03, ge=0, description="λ of the penalty on rows that attend alike or thinly")
    threshold: float = Field(0.5, ge=0, le=1, description="smallest probability of a detected event")
    classes: int = Field(0, ge=0, description="number of events; set from the data")
    temperature: float = Field(1.0, gt=0, description="divides the logits it serves; fitted on the validation split")
