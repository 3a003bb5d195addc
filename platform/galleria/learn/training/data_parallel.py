"""What the workers of one run exchange through torch.distributed; with one worker, every function does nothing."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this worker, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def wrap(task: nn.Module, sync_batch_norm: bool = False) -> nn.Module:
    """Return a module that trains `task` on all workers, with the weights of rank 0; with one worker, `task` itself.

    Parameters that are not trained must not require a gradient by now: the workers would exchange it.

    Args:
        task: on the worker's own device.
        sync_batch_norm: whether BatchNorm computes its statistics over the rows of all workers, on GPUs.
    """
    if world_size() == 1:
        return task
    device = next(task.parameters()).device
    if sync_batch_norm and device.type == "cuda":
        task = convert_sync_batchnorm(task)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(task, devices, find_unused_parameters=True)  # a batch may lack texts altogether


def gather_rows(*columns: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of all workers, in the order of their ranks; gradients reach this worker's own rows.

    Every worker must compute the same loss from the result. DistributedDataParallel, which averages the workers'
    gradients, then has the gradient that one process with all the rows would have.

    Args:
        columns: tensors with the same number of rows `[B, …]`; B may differ between workers, and be 0.
    """
    if world_size() == 1:
        return columns
    counts = _counts(len(columns[0]), columns[0].device)
    return tuple(_Gather.apply(column, counts) for column in columns)


def mean_over_workers(mean: Tensor, rows: int | Tensor) -> Tensor:
    """Weigh a mean over this worker's rows so that the AVERAGE over the workers is the mean over all rows.

    Args:
        mean: of any shape, over `rows` rows; NaN over none.
        rows: number of rows (or labels) it was computed from; may differ between workers.
    """
    if world_size() == 1:
        return mean
    counts = _counts(int(rows), mean.device)
    mean = mean if rows else mean.nan_to_num(nan=0.0)
    return mean * (int(rows) * len(counts) / max(1, sum(counts)))


def gather_objects(value: T) -> list[T]:
    """Return the picklable `value` of every worker, in the order of their ranks."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value, group=_group_of_cpus())
    return values


def collect_objects(value: T) -> list[T]:
    """Return the picklable `value` of every worker on rank 0, in the order of their ranks, and nothing elsewhere."""
    values: list[Any] = [value] * world_size() if rank() == 0 else []
    if world_size() > 1:
        dist.gather_object(value, values or None, dst=0, group=_group_of_cpus())
    return values


def gather_lists(columns: Mapping[str, list[T]]) -> dict[str, list[T]]:
    """Join the lists of all workers, name by name: the first values of all, then the second ones, and so on."""
    workers = gather_objects(dict(columns))
    end: Any = object()
    turns = {name: itertools.zip_longest(*(worker[name] for worker in workers), fillvalue=end) for name in columns}
    return {name: [value for turn in turns[name] for value in turn if value is not end] for name in columns}


def agree(value: T) -> T:
    """Return the picklable `value` of rank 0 on every worker."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_group_of_cpus())
    return values[0]


def share_buffers(module: nn.Module) -> None:
    """Copy the buffers of rank 0, such as the running statistics of BatchNorm, to all workers."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def total(sums: Mapping[str, float]) -> dict[str, float]:
    """Add the numbers of all workers, name by name; a worker may lack names."""
    totals: dict[str, float] = {}
    for worker in gather_objects(dict(sums)):
        for name, value in worker.items():
            totals[name] = totals.get(name, 0) + value
    return totals


class _Gather(torch.autograd.Function):
    """Concatenation of all workers' rows.

    All workers compute the same loss, so that each knows the gradient of its own rows without communication. It is
    multiplied by the number of workers, since DistributedDataParallel divides by it.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Pad to the largest number of rows, exchange, and cut."""
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the part of this worker's rows."""
        start = sum(ctx.counts[: rank()])
        own = gradients[0][start : start + ctx.counts[rank()]]
        return own * len(ctx.counts), None


@functools.cache
def _group_of_cpus() -> Any:
    """Return the group for objects: they are not sent through GPUs."""
    return dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def _counts(rows: int, device: torch.device) -> list[int]:
    own = torch.tensor([rows], device=device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in torch.cat(counts).tolist()]
