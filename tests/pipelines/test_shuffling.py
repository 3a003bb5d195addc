"""Rows that are sorted in the files are mixed before they become batches, and products stay whole."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from galleria.families.text_guided.recipes import debug
from galleria.learn.family import load_family
from galleria.learn.recipe import Recipe
from galleria.learn.task import Row
from galleria.learn.training.sampling import deal, training_batches
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.shuffling import groups_of_rows, training_stream
from galleria.pipelines.worker_shard import WorkerShard
from tests.pipelines.conftest import Write

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_instance")]

CATEGORIES, PRODUCTS, PICTURES = 20, 30, 3
BATCH = 20


@pytest.fixture
def sorted_file(write: Write) -> ProductDataset:
    """20 categories one after the other; in each, the first pictures of all products, then the second, the third."""
    rows = [
        {
            "id": f"{category}-{product}-{picture}",
            "image": b"picture",
            "product_id": f"{category}-{product}",
            "text": f"category {category}",
            "split": "train",
        }
        for category in range(CATEGORIES)
        for picture in range(PICTURES)
        for product in range(PRODUCTS)
    ]
    return ProductDataset(Source(write(rows)), load_family("text_guided"))


def recipe(**sampling: Any) -> Recipe[Any]:
    options = {"batch_size": BATCH, "buffer": 300, "group": None, **sampling}
    return debug().model_copy(update={"sampling": debug().sampling.model_copy(update=options)})


def batches(data: ProductDataset, chosen: Recipe[Any], workers: int = 1) -> list[list[list[Row]]]:
    """The batches of every worker, as `WorkerBatches` has them."""
    stream = training_stream(data, chosen)
    worker = deal(groups_of_rows(data, chosen, workers), workers, (chosen.seed, 0))
    shard = WorkerShard(stream.iterator(), chosen.sampling.buffer)

    def of(rank: int) -> Iterator[list[Row]]:
        rows = shard.select(lambda indices: worker[indices] == rank)
        return training_batches(rows, chosen.sampling, np.random.default_rng(0))

    return [list(of(rank)) for rank in range(workers)]


def categories_per_batch(found: list[list[Row]]) -> float:
    return float(np.mean([len({row["text"] for row in batch}) for batch in found]))


def test_sorted_file_gives_mixed_batches(sorted_file: ProductDataset) -> None:
    random = CATEGORIES * (1 - (1 - 1 / CATEGORIES) ** BATCH)  # expected number of categories in a random batch

    [found] = batches(sorted_file, recipe())

    assert len({row["id"] for batch in found for row in batch}) == CATEGORIES * PRODUCTS * PICTURES
    assert categories_per_batch(found) > 0.9 * random


def test_products_of_sorted_file_stay_whole(sorted_file: ProductDataset) -> None:
    parts = batches(sorted_file, recipe(group="product_id", group_size=2), workers=2)

    for part in parts:
        pairs = 0
        for batch in part:
            counts = Counter(row["product_id"] for row in batch)
            pairs += sum(count for count in counts.values() if count > 1)
        assert pairs > 0.6 * BATCH * len(part)  # two of the three pictures of a product are a pair
        assert categories_per_batch(part) > 8
    products = [{row["product_id"] for batch in part for row in batch} for part in parts]
    assert len(set.intersection(*products)) <= 1


def test_order_is_that_of_the_seed(sorted_file: ProductDataset) -> None:
    orders = [
        [row["id"] for row in training_stream(sorted_file, recipe().model_copy(update={"seed": seed})).iter_rows()]
        for seed in (0, 0, 1)
    ]

    assert orders[0] == orders[1] != orders[2]
