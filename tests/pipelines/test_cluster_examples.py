"""Batches that the cluster decodes equal those of the worker's own threads."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from galleria.families.category_tree.recipes import debug
from galleria.learn.examples import Examples
from galleria.learn.family import Context, load_family
from galleria.learn.task import Batch, Row
from galleria.learn.training.augmentation import Augmentation
from galleria.pipelines.cluster_examples import MALLOC_ENVIRONMENT, PREFETCHED_BATCHES, ClusterExamples, _make
from galleria.pipelines.train import WORKER_ENVIRONMENT
from galleria.pipelines.worker_batches import examples_of
from tests.drawings import product_rows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_instance")]

FAMILY = load_family("category_tree")
ROWS = product_rows(15)


@pytest.fixture(scope="module")
def context() -> Context[Any]:
    changed = Augmentation(rotation=20, smallest=0.7, largest=1.3, flip=0.5, brightness=0.3)
    return FAMILY.context(debug().model.model_copy(update={"augmentation": changed}), ROWS)


def batches(
    kind: type[Examples], context: Context[Any], groups: list[list[Row]], seed: tuple[int, ...] | None = None
) -> tuple[list[Batch], list[tuple[str, str]]]:
    rejected: list[tuple[str, str]] = []
    examples = kind(FAMILY, context, 2, lambda row, reason: rejected.append((row["id"], reason)))
    return list(examples.stream(groups, seed)), rejected


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        for left, right in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("seed", [None, (0, 3)])
@pytest.mark.slow
def test_batches_equal_those_of_worker_threads(context: Context[Any], seed: tuple[int, ...] | None) -> None:
    groups = [ROWS[:12], ROWS[12:13], ROWS[13:]]

    decoded, rejected = batches(ClusterExamples, context, groups, seed)

    assert [len(batch["pixels"]) for batch in decoded] == [12, 1, 17]
    assert same(decoded, batches(Examples, context, groups, seed)[0])
    assert rejected == []


def test_bad_rows_are_reported_and_dropped(context: Context[Any]) -> None:
    bad = [{**row, "image": b"broken"} for row in ROWS[:3]]
    groups = [[bad[0], *ROWS[3:12], bad[1]], [bad[2]], ROWS[12:14], []]

    decoded, rejected = batches(ClusterExamples, context, groups)

    assert same(decoded, batches(Examples, context, groups)[0])
    assert rejected == batches(Examples, context, groups)[1]
    assert [name for name, _ in rejected] == [row["id"] for row in bad]


def test_unexpected_error_is_raised_as_itself(context: Context[Any]) -> None:
    with pytest.raises(KeyError, match="source") as raised:
        batches(ClusterExamples, Context(context.config, {}), [ROWS[:2]])

    assert type(raised.value) is KeyError


def test_examples_of_mixed_columns_are_rejected(context: Context[Any]) -> None:
    bare = [{name: row[name] for name in ("id", "image")} for row in ROWS[:2]]

    with pytest.raises(ValueError, match="one example has shapes"):
        batches(ClusterExamples, context, [[*bare, *ROWS[2:16]]])


def test_decoders_release_memory() -> None:
    @ray.remote(num_cpus=0, runtime_env={"env_vars": WORKER_ENVIRONMENT})
    class Worker:
        def settings(self) -> list[str | None]:
            read = ray.remote(lambda: [os.environ.get(name) for name in MALLOC_ENVIRONMENT])
            return ray.get(read.options(**_make._default_options).remote())

    assert ray.get(Worker.remote().settings.remote()) == list(MALLOC_ENVIRONMENT.values())


@pytest.mark.parametrize(("decode_on", "kind"), [("worker", Examples), ("cluster", ClusterExamples)])
def test_recipe_sets_where_to_decode(context: Context[Any], decode_on: str, kind: type[Examples]) -> None:
    sampling = debug().sampling.model_copy(update={"decode_on": decode_on})
    recipe = debug().model_copy(update={"sampling": sampling})

    assert type(examples_of(recipe, FAMILY, context, lambda *_: None)) is kind


def test_prefetching_is_limited(context: Context[Any]) -> None:
    read: list[int] = []

    def groups() -> Iterator[list[Row]]:
        for index, row in enumerate(ROWS):
            read.append(index)
            yield [row]

    next(ClusterExamples(FAMILY, context, 1, lambda *_: None).stream(groups()))

    assert read == list(range(PREFETCHED_BATCHES + 1))
