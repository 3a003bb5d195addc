"""What several workers read, score and start from is what one worker would, without Ray."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.families.text_guided.recipes import debug
from galleria.learn.family import load_family
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe
from galleria.learn.task import Row
from galleria.learn.training.data_parallel import wrap
from galleria.learn.training.loop import freeze
from galleria.pipelines.worker_batches import Run, WorkerBatches
from tests.drawings import product_rows
from tests.workers import run_workers

FAMILY = load_family("text_guided")
TRAIN = product_rows(24)
VALIDATION = product_rows(12, "validation", first=100)
for broken in (3, 21):
    VALIDATION[broken] = VALIDATION[broken] | {"image": b"broken"}


class Rows:
    """A split that is a list."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def select(self, chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> Iterator[Row]:
        own = chosen(np.arange(len(self.rows)))
        return (row for row, is_own in zip(self.rows, own, strict=True) if is_own)


def recipe(**options: Any) -> Recipe[Any]:
    model = debug().model.model_copy(update={"warm_start": True})
    sampling = debug().sampling.model_copy(update={"batch_size": 5})
    optimization = debug().optimization.model_copy(update=options)
    return debug().model_copy(update={"model": model, "sampling": sampling, "optimization": optimization})


def batches(workers: int) -> WorkerBatches:
    context = FAMILY.context(recipe().model, TRAIN)
    rows = {"train": len(TRAIN), "validation": len(VALIDATION)}
    steps = len(TRAIN) // workers // 5
    run = Run(recipe(), context, steps, rows, np.arange(len(TRAIN)))
    return WorkerBatches(run, {"train": Rows(TRAIN), "validation": Rows(VALIDATION)}, lambda _: None)


def results(workers: int) -> dict[str, Any]:
    """Scores, weights after the warm start, labels of two epochs, and bytes of gradients with frozen towers."""
    torch.manual_seed(0)
    own = batches(workers)
    task = FAMILY.build(own.run.context.config)
    scores = own.scores(task)
    own.warm_start(task)
    weights = {name: value.clone() for name, value in task.state_dict().items()}
    labels = [torch.cat([batch["label"] for batch in own.training(epoch)]) for epoch in (0, 1)]
    freeze(task, recipe(rates={"backbone": 0, "text": 0}).optimization)
    wrapped = wrap(task)
    exchanged = wrapped._get_ddp_logging_data()["total_parameter_size_bytes"] if workers > 1 else 0
    return {"scores": scores, "weights": weights, "labels": labels, "exchanged": exchanged}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return run_workers(results, 1, 1)[0]


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_workers(results, request.param, request.param)


def test_scores_equal_one_worker(one: dict[str, Any], several: list[dict[str, Any]]) -> None:
    expected: Mapping[str, Score] = one["scores"]

    assert expected["R@1"].dropped >= 2  # broken pictures
    for worker in several:
        assert worker["scores"] == expected


def test_warm_start_sees_all_rows(one: dict[str, Any], several: list[dict[str, Any]]) -> None:
    expected: Mapping[str, Tensor] = one["weights"]

    for worker in several:
        for name, value in expected.items():
            torch.testing.assert_close(worker["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_rows_are_dealt_anew_every_epoch(several: list[dict[str, Any]]) -> None:
    pictures = Counter(row["product_id"] for row in TRAIN)
    for epoch in (0, 1):
        seen = Counter(torch.cat([worker["labels"][epoch] for worker in several]).tolist())
        assert max(seen.values()) <= max(pictures.values())  # no picture twice
    first, second = (several[0]["labels"][epoch] for epoch in (0, 1))
    assert set(first.tolist()) != set(second.tolist())


def test_frozen_groups_are_not_exchanged(several: list[dict[str, Any]]) -> None:
    task = FAMILY.build(batches(1).run.context.config)
    heads = sum(value.numel() * 4 for value in task.parameter_groups()["heads"])

    for worker in several:
        assert worker["exchanged"] == heads
