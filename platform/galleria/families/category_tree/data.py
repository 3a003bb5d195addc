"""The rows of `category_tree`: pictures with a product and a category path."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import ConfigurationError, DataError
from galleria.families.category_tree.config import CategoryTreeConfig, completed
from galleria.learn.family import Context, Labels, index_by_name
from galleria.learn.gallery_rows import gallery_columns, stable_key
from galleria.learn.metrics.trees import full_names, padded, tree_of
from galleria.learn.training.augmentation import picture_pixels
from galleria.learn.types import Row

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the picture"}),
        pa.field("image", pa.binary(), nullable=False, metadata={"about": "the encoded picture"}),
        pa.field("product_id", pa.string(), nullable=False, metadata={"about": "pictures of one product share it"}),
        pa.field("category", pa.list_(pa.string()), metadata={"about": "path in the tree, root level first"}),
        pa.field("source", pa.string(), metadata={"about": "where the picture is from; scored separately"}),
        pa.field("role", pa.string(), metadata={"about": "'query' or 'gallery'; empty is both"}),
    ]
)
MAX_CLASSES = 5
"""Classes of a level in a response."""


def context(config: CategoryTreeConfig, rows: Iterable[Row]) -> Context[CategoryTreeConfig]:
    """Build the tree of the training rows: labels "level_1", … (full names), and parents in the config.

    Rows whose path cannot be in the tree are left out here; `example` reports what is wrong with each.

    Raises:
        DataError: no training row has a usable path.
        ConfigurationError: the recipe's depth, level weights or dimensions do not fit the tree.
    """
    paths, products, sources = set(), set(), set()
    for row in rows:
        sources.add(row.get("source") or "")
        try:
            path = _path(row.get("category"), config.depth)
        except DataError:
            continue
        if path:
            paths.add(path)
            products.add(row["product_id"])
    if not paths:
        raise DataError("no training row has a category path: fill in the column 'category', root level first")
    depth = max(len(path) for path in paths)
    if config.depth not in (0, depth):
        raise ConfigurationError(
            f"the recipe's tree has depth={config.depth}, but the longest category path of the training rows has "
            f"{depth} levels: set depth={depth}, or 0 to take it from the rows"
        )
    tree = tree_of(paths, depth)
    labels = {f"level_{level}": names for level, names in enumerate(tree.names, 1)}
    labels |= {"product": tuple(sorted(products)) if config.product_level else (), "source": tuple(sorted(sources))}
    return Context(completed(config, tree.parents, len(labels["product"])), labels)


def example(row: Row, context: Context[CategoryTreeConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has.

    `pixels` uint8 `[3, S, S]`, and for a picture that is searched with weights of its own `level_weights` float32
    `[L]` with sum 1. Of a row with a product: `product`, `source` and `role` (see `gallery_columns`), `path` int64
    `[depth]`, a key for the category of each level or -1, and `label` int64 `[L]`, the training class or -1.

    Raises:
        DataError: the picture, role, level weights or category path cannot be used. A training row must have a
            path inside the tree; elsewhere an unknown category is treated as a new one.
    """
    config = context.config
    arrays: dict[str, Any] = {}
    if "image" in row:
        arrays["pixels"] = picture_pixels(row["image"], config.size, config.augmentation, generator)
        if row.get("level_weights") is not None:
            arrays["level_weights"] = _level_weights(row["level_weights"], config)
    if "product_id" in row:
        arrays |= gallery_columns(row, context.labels)
        path = _path(row.get("category"), config.depth)
        names = full_names(padded(path, config.depth)) if path else ()
        arrays["path"] = np.full(config.depth, -1, np.int64)
        arrays["path"][: len(names)] = [stable_key(name) for name in names]
        arrays["label"] = _labels(row["product_id"], names, context)
        if generator is not None and (arrays["label"] < 0).any():
            raise DataError(_outside_message(path, names, context.labels))
    return arrays


def present(outputs: Mapping[str, Any], labels: Labels) -> Mapping[str, Any]:
    """Return the picture's vector, and the likeliest classes of every level that the model classifies."""
    levels = []
    for level in range(1, 1 + sum(name.startswith("level_") for name in labels)):
        if f"level_{level}" in outputs:
            probabilities = np.asarray(outputs[f"level_{level}"])
            best = (-probabilities).argsort(kind="stable")[:MAX_CLASSES]
            names = labels[f"level_{level}"]
            classes = [{"name": names[index], "probability": float(probabilities[index])} for index in best]
            levels.append({"level": level, "classes": classes})
    return {"embedding": np.asarray(outputs["embedding"]).tolist(), "levels": levels}


def _path(category: Sequence[str | None] | None, depth: int) -> tuple[str, ...]:
    """Return the path without empty levels at its end; empty where there is none."""
    parts = [part or "" for part in category or ()]
    while parts and not parts[-1]:
        parts.pop()
    joined = " / ".join(parts)
    if "" in parts:
        raise DataError(f"the category path {joined!r} has nothing on level {parts.index('') + 1}: fill it in")
    if depth and len(parts) > depth:
        raise DataError(f"the category path {joined!r} has {len(parts)} levels, but the tree has {depth}: shorten it")
    return tuple(parts)


def _labels(product: str, names: Sequence[str], context: Context[CategoryTreeConfig]) -> NDArray[np.int64]:
    """Return the class on each level: that of the deepest known category, and its parents up to the root."""
    config, labels = context.config, context.labels
    classes = np.full(config.levels, -1, np.int64)
    level = len(names)
    while level and names[level - 1] not in index_by_name(labels[f"level_{level}"]):
        level -= 1
    index = index_by_name(labels[f"level_{level}"])[names[level - 1]] if level else -1
    if config.product_level:
        classes[-1] = index_by_name(labels["product"]).get(product, -1)
        if config.shuffled:
            level, index = config.depth, int(stable_key(product)) % len(config.tree[-1])
    for above in range(level, 0, -1):
        classes[above - 1] = index
        index = config.tree[above - 1][index]
    return classes


def _outside_message(path: Sequence[str], names: Sequence[str], labels: Labels) -> str:
    """Explain why a training row is outside the tree."""
    if not path:
        return "the row has no category path: fill in the column 'category', root level first"
    for level, name in enumerate(names, 1):
        known = labels[f"level_{level}"]
        if name not in index_by_name(known):
            near = ", ".join(repr(other) for other in difflib.get_close_matches(name, known, n=3, cutoff=0)[:3])
            return f"the category {name!r} is not in level {level} of the tree: use one of its classes ({near}, …)"
    return "its product is not among those that the tree was made of: train again from the start"


def _level_weights(values: Sequence[float], config: CategoryTreeConfig) -> NDArray[np.float32]:
    """Check a query's weights and scale them to sum 1."""
    if config.head == "none":
        raise DataError("this model's vectors have no levels: leave out level_weights")
    try:
        weights = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"level_weights {values!r} are not numbers: give {config.levels}, one a level") from error
    if weights.shape != (config.levels,):
        raise DataError(f"level_weights {values!r} must be {config.levels} numbers, one a level, root level first")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise DataError(f"level_weights {values!r} must be 0 or more, and at least one of them more than 0")
    trained = np.array(config.level_weights) > 0
    if weights[~trained].any():
        fixed, free = (", ".join(str(level + 1) for level in np.flatnonzero(which)) for which in (~trained, trained))
        raise DataError(
            f"level_weights {values!r} weigh a level that this model was trained without (level {fixed}): "
            f"give it 0, and weigh level {free}"
        )
    weights = weights / weights.max()  # their sum might be too large a number
    normalised: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normalised
