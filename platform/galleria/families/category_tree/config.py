"""The options of `category_tree`. Imports no torch: a gateway starts without it."""

from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.losses.mining import Mining
from galleria.learn.recipe import Frozen
from galleria.learn.training.augmentation import Augmentation

DIMENSION = 256
"""Length of the full vector where the recipe sets none."""


class CategoryTreeConfig(Frozen):
    """Options of the network. `tree`, `products` and options that are 0 or empty are set from the data."""

    image: ImageEncoderConfig
    size: int = Field(224, ge=32, description="side of the input, in pixels")
    augmentation: Augmentation = Augmentation()
    head: Literal["tree", "none"] = Field("tree", description="'none': the backbone's own features, not for training")
    depth: int = Field(0, ge=0, description="levels of the category tree; 0: as many as the longest training path")
    product_level: bool = Field(False, description="the product as one more level, the finest")
    tree: tuple[tuple[int, ...], ...] = Field((), description="index of every category's parent, level by level")
    products: int = Field(0, ge=0, description="training products of the product level")
    channels: int = Field(256, gt=0, description="channels of the pyramid")
    dimensions: tuple[PositiveInt, ...] = Field((), description="length of each level's vector; () divides 256 equally")
    level_weights: tuple[NonNegativeFloat, ...] = Field(
        (), description="weight of each level in the vector; () is equal; a level of weight 0 is left out"
    )
    scale: float = Field(16.0, gt=0, description="s of the softmax terms")
    sampled_classes: int = Field(
        0, ge=0, description="sampled softmax: classes of a level that a step scores, the batch's included; 0 is all"
    )
    contrastive: float = Field(1.0, ge=0, description="weight of the contrastive term")
    mining: Mining = Mining()
    margin: float = Field(1.0, gt=0, description="smallest distance of samples of different classes that costs nothing")
    pairs: Literal["level", "product"] = Field(
        "level", description="on the finest level, pairs are of one class of it ('level') or of one product"
    )
    levels_from: Literal["pyramid", "coarsest", "reversed"] = Field(
        "pyramid",
        description="maps that the levels read: coarse to fine; for control, all the coarsest, or fine to coarse",
    )
    shuffled: bool = Field(False, description="for control: categories above the finest level are assigned at random")
    warm_start: bool = Field(False, description="start pyramid and heads from a discriminant analysis of the features")

    @property
    def levels(self) -> int:
        """Return the number of levels: those of the category tree, and that of the product."""
        return self.depth + self.product_level


def completed(config: CategoryTreeConfig, parents: tuple[tuple[int, ...], ...], products: int) -> CategoryTreeConfig:
    """Return the config with everything that depends on the data.

    Raises:
        ConfigurationError: level weights or dimensions do not fit the tree.
    """
    if config.shuffled and not config.product_level:  # else `example` assigns categories to products
        parents = (*parents[:-1], tuple(np.random.default_rng(0).permutation(parents[-1]).tolist()))
    complete = config.model_copy(update={"depth": len(parents), "tree": parents, "products": products})
    weights = config.level_weights or (1.0,) * complete.levels
    used = sum(weight > 0 for weight in weights)
    if not used:
        raise ConfigurationError(f"the level_weights {weights} leave out every level: set at least one above 0")
    dimensions = config.dimensions or (DIMENSION // used,) * complete.levels
    complete = complete.model_copy(
        update={"level_weights": tuple(weight / sum(weights) for weight in weights), "dimensions": dimensions}
    )
    check_complete(complete)
    return complete


def check_complete(config: CategoryTreeConfig) -> None:
    """Check that the parts of a config fit each other, which pydantic does not."""
    if not config.tree or len(config.tree) != config.depth:
        raise ConfigurationError(
            f"the config has a tree of {len(config.tree)} levels and depth={config.depth}: build from the config that "
            "`context` makes of training rows"
        )
    for name, values in (("level_weights", config.level_weights), ("dimensions", config.dimensions)):
        if len(values) != config.levels:
            product = " and the product level" if config.product_level else ""
            raise ConfigurationError(
                f"{name} has {len(values)} values, but there are {config.levels} levels ({config.depth} of the "
                f"category tree{product}): give one for each, root level first, or leave it empty"
            )
