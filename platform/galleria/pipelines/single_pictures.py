"""Replaces the second picture where products have one: by views in training, by augmented queries in validation."""

from collections import Counter
from typing import Any

from galleria.errors import ConfigurationError
from galleria.learn.family import Family
from galleria.learn.gallery import has_positive
from galleria.learn.recipe import Recipe
from galleria.learn.training.augmentation import Augmentation
from galleria.pipelines.datasets import ProductDataset
from galleria.pipelines.rejects import Reject

VIEWS = 2


def with_views(recipe: Recipe[Any], data: ProductDataset) -> Recipe[Any]:
    """Return the recipe, with two views of each row if it groups rows and each group of the training split has one.

    Says so among the rejects of `data`.
    """
    group = recipe.sampling.group
    if group is None or recipe.sampling.views > 1:
        return recipe
    sizes = Counter(row.get(group) for row in data.rows("train"))
    if max(sizes.values()) > 1:
        return recipe
    reason = f"each {group!r} has one row in the training split: {VIEWS} augmented views of each row are its positives"
    data.rejects.append(Reject("", reason, kept=True))
    return recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update={"views": VIEWS})})


def needs_augmented_queries(recipe: Recipe[Any], family: Family[Any], data: ProductDataset) -> bool:
    """Whether no picture of the validation split has another of its product to find.

    Says so among the rejects of `data`.

    Raises:
        ConfigurationError: the recipe monitors such a score, and augments nothing.
    """
    if not family.ranks or has_positive(data.rows("validation")):
        return False
    metric = recipe.stopping.metric
    if getattr(recipe.model, "augmentation", None) == Augmentation() and not metric.startswith("text/"):
        raise ConfigurationError(
            f"the recipe monitors {metric!r}, but no product of the validation split has two pictures, and the recipe "
            "augments none: set model.augmentation, add pictures, or monitor 'text/R@1'"
        )
    reason = "no product of the validation split has two pictures: queries are augmented pictures of the gallery"
    data.rejects.append(Reject("", reason, kept=True))
    return True
