"""The order in which training rows are streamed: that of the files, or a random one for what a buffer cannot mix."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from galleria.learn.recipe import Recipe
from galleria.pipelines.datasets import ProductDataset

KEY = "shuffle_key"


def exceeds_buffer(data: ProductDataset, recipe: Recipe[Any]) -> bool:
    """Return whether the training split has more rows than the shuffle buffer."""
    return data.counts["train"] > recipe.sampling.buffer


def training_stream(data: ProductDataset, recipe: Recipe[Any]) -> ray.data.Dataset:
    """Return the training rows, in an order from which the shuffle buffer makes random batches.

    A split that fits into the buffer has the order of its files. A larger one may be sorted, by category say, and
    the buffer mixes neighbours alone: its rows are sorted by a hash of the seed and their group, so that groups are in
    random order and the rows of one are neighbours. Ray Data sorts in its object store, which spills to disk; the
    result stays there, and every epoch streams it.
    """
    stream = data.stream("train")
    if not exceeds_buffer(data, recipe):
        return stream

    def add_key(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist() if column in table.column_names else [None] * len(table)
        return table.append_column(KEY, pa.array([_key(recipe.seed, value) for value in values], pa.int64()))

    column = _group_column(recipe)
    keyed = stream.map_batches(add_key, batch_format="pyarrow", zero_copy_batch=True)
    shuffled: ray.data.Dataset = keyed.sort([KEY, "id"]).drop_columns([KEY]).materialize()
    return shuffled


def groups_of_rows(data: ProductDataset, recipe: Recipe[Any], workers: int) -> NDArray[np.int64]:
    """Return the group of every training row in the stream's order: those that should be in one batch, or each row."""
    if workers == 1 or recipe.sampling.group is None:
        return np.arange(data.counts["train"])
    column = _group_column(recipe)
    keys = np.array([_key(recipe.seed, row.get(column)) for row in data.rows("train")], np.int64)
    if exceeds_buffer(data, recipe):
        keys.sort()
    return np.unique(keys, return_inverse=True)[1]


def _group_column(recipe: Recipe[Any]) -> str:
    return recipe.sampling.group or "id"


def _key(seed: int, value: Any) -> int:
    digest = hashlib.blake2b(f"{seed}/{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
