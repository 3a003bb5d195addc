"""The options of `contour`. Imports no torch: a gateway starts without it."""

from typing import Literal

from pydantic import Field

from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation

NONE, CONTOUR, UNCERTAIN = 0, 1, 2
"""Classes of the pixels of a target."""


class ContourConfig(Frozen):
    """Options of the network."""

    size: int = Field(224, ge=32, multiple_of=8, description="side of the input, in pixels; contours have half of it")
    squeeze: bool = Field(False, description="squeeze-and-excitation in the residual modules")
    cascade: Literal["plain", "dense"] = Field(
        "plain", description="'dense': each layer reads the maps of all layers before it, not of the last one alone"
    )
    fused: bool = Field(False, description="predictions have the fused maps, the first contour features, too")
    unification: Literal["bilinear", "nearest", "deconvolution"] = "bilinear"
    head: bool = Field(True, description="the single-channel layer, which is not exported")
    contour_from: float = Field(0.5, gt=0, le=1, description="smallest annotation of a contour pixel, in 0 … 1")
    none_to: float = Field(
        0.1, ge=0, lt=1, description="largest annotation of a pixel without contour; between is uncertain"
    )
    augmentation: Augmentation = Augmentation()
