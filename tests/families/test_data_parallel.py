"""Several workers compute the losses and gradients of one process that has all their rows."""

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from galleria.learn.task import Batch
from galleria.learn.training.data_parallel import rank, world_size
from tests.families.every_task import TASKS
from tests.workers import run_workers


def backward(task: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The terms of a batch's loss, and every gradient."""
    outputs = task(batch)
    outputs["loss"].backward()
    terms = {f"term {name}": value.detach() for name, value in outputs.items() if value.ndim == 0}
    return terms | {name.removeprefix("module."): p.grad for name, p in task.named_parameters() if p.grad is not None}


def steps() -> dict[str, Mapping[str, Tensor]]:
    """One step of every task on this worker's rows; the last worker has the fewest.

    Without dropout, and with constant statistics in BatchNorm: each worker's are those of its own rows.
    """
    results = {}
    for name, make in TASKS.items():
        task, batch = make()
        parts = {column: value.tensor_split(world_size())[rank()] for column, value in batch.items()}
        wrapped = DistributedDataParallel(task, find_unused_parameters=True)
        results[name] = backward(wrapped.eval(), parts)
    return results


@functools.cache
def steps_of(workers: int) -> list[dict[str, Mapping[str, Tensor]]]:
    return run_workers(steps, workers)


@functools.cache
def step_of_one(name: str) -> Mapping[str, Tensor]:
    task, batch = TASKS[name]()
    return backward(task.eval(), batch)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("name", TASKS)
def test_workers_equal_one_process(name: str, workers: int) -> None:
    expected = step_of_one(name)

    results: list[Mapping[str, Any]] = [worker[name] for worker in steps_of(workers)]

    for column, value in expected.items():
        if column.startswith("term "):  # the average is what is reported
            found = torch.stack([result[column] for result in results]).mean(0)
        else:
            found = results[-1][column]
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6, msg=lambda text, c=column: f"{c}: {text}")
