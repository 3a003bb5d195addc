"""What several workers read, score and start from is what one worker would, without Ray."""

import contextlib
import copy
from collections import Counter, deque
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
from galleria.learn.training.data_parallel import world_size, wrap
from galleria.learn.training.loop import TrainingState, fit, freeze
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
    run = Run(recipe(), context, steps, rows, np.arange(len(TRAIN)), False, checkpoint_minutes=30)
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


def trained(cut: int | None) -> dict[str, Tensor]:
    """Weights after two epochs, of a run that is stopped after step `cut` and resumed."""
    own = batches(world_size())
    stopping = recipe().stopping.model_copy(update={"epochs": 2})
    chosen = recipe().model_copy(update={"stopping": stopping})
    saved: dict[str, Any] = {}

    def run(after_step: Callable[[TrainingState], None]) -> TrainingState:
        torch.manual_seed(0)
        task = FAMILY.build(own.run.context.config)
        model = wrap(task)
        state = TrainingState(task, chosen, 2 * own.run.steps)
        if saved:
            state.load_state_dict(saved)
            torch.manual_seed(999)
        scores = {stopping.metric: Score(1.0, 1.0, 1.0, 1)}
        deque(
            fit(
                model,
                chosen,
                lambda epoch: own.training(epoch, state.batch),
                lambda _: scores,
                state,
                lambda: after_step(state),
            )
        )
        return state

    def stop(state: TrainingState) -> None:
        if state.step == cut:
            saved.update(copy.deepcopy(state.state_dict()))
            raise InterruptedError

    if cut is not None:
        with contextlib.suppress(InterruptedError):
            run(stop)
    return dict(run(lambda _: None).task.state_dict())


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


def test_workers_resume_inside_epoch() -> None:
    whole = run_workers(trained, 2, None)
    steps = len(TRAIN) // 2 // 5

    resumed = run_workers(trained, 2, steps + 2)

    for worker in (0, 1):
        for name, value in whole[0].items():
            if "running" not in name:  # statistics of BatchNorm are of each worker's own rows until they are shared
                torch.testing.assert_close(resumed[worker][name], value, rtol=1e-5, atol=1e-7, msg=name)
