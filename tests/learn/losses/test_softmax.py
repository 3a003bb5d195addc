"""Softmax over many classes: one width in memory at a time, and sampled classes in place of all."""

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from galleria.learn.losses.softmax import class_softmax, sample_classes
from galleria.learn.task import Batch

BATCH, CLASSES, DIMENSION = 6, 500, 16
WIDTHS = (2, 4, 8, 16)


class LiveMatrices(TorchDispatchMode):
    """Counts the tensors of a shape that are alive at once."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.alive: set[int] = set()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.shape == self.shape:
                storage = value.untyped_storage()
                if storage.data_ptr() not in self.alive:
                    self.alive.add(storage.data_ptr())
                    weakref.finalize(storage, self.alive.discard, storage.data_ptr())
                self.peak = max(self.peak, len(self.alive))
        return result


def matrices(task: nn.Module, batch: Batch, classes: int) -> int:
    """Return how many `[B, classes]` matrices are alive at once in a step."""
    with LiveMatrices(len(batch["pixels"]), classes) as live:
        task(batch)["loss"].backward()
    return live.peak


def rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(BATCH, DIMENSION, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(CLASSES, DIMENSION, generator=generator, dtype=dtype, requires_grad=True)
    return vectors, weight, torch.tensor([3, 3, 499, 0, 77, 3])


def plain(vectors: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    terms = [F.cross_entropy(16 * F.normalize(vectors[:, :d], dim=1) @ weight[:, :d].T, labels) for d in WIDTHS]
    return torch.stack(terms).mean()


def test_memory_does_not_grow_with_widths():
    peaks = []
    for widths in (WIDTHS[-2:], WIDTHS):
        vectors, weight, labels = rows()
        with LiveMatrices(BATCH, CLASSES) as live:
            class_softmax(vectors, weight, labels, 16.0, widths).backward()
        peaks.append(live.peak)

    assert peaks[0] > 0
    assert peaks[1] <= peaks[0]


@pytest.mark.parametrize("sampled", [0, CLASSES, CLASSES + 1])
def test_all_classes_equal_plain_softmax(sampled):
    own, expected = rows(), rows()

    loss = class_softmax(*own, 16.0, WIDTHS, sampled)
    loss.backward()
    plain(*expected).backward()

    assert torch.equal(loss, plain(*expected))
    for value, other in zip(own[:2], expected[:2], strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [1, 4, 5, 100, CLASSES - 1])
def test_targets_are_always_sampled(count):
    labels = rows()[2]

    classes, correction = sample_classes(labels, CLASSES, count)

    assert set(labels.tolist()) <= set(classes.tolist())
    assert len(classes) == len(correction) == max(count, 4)
    assert classes.tolist() == sorted(set(classes.tolist()))
    assert set(correction[torch.isin(classes, labels)].tolist()) == {0}


def test_sampled_partition_is_unbiased():
    torch.manual_seed(0)
    vectors, weight, labels = rows()
    exponentials = (F.normalize(vectors, dim=1) @ weight.T).exp().detach()

    estimates = []
    for _ in range(2000):
        classes, correction = sample_classes(labels, CLASSES, 50)
        estimates.append((exponentials[:, classes] * correction.exp()).sum(1))

    found = torch.stack(estimates)
    error = found.std(0) / len(estimates) ** 0.5
    assert ((found.mean(0) - exponentials.sum(1)).abs() < 4 * error).all()


def test_sampling_scores_no_other_class():
    vectors, weight, labels = rows()

    with LiveMatrices(BATCH, CLASSES) as live:
        class_softmax(vectors, weight, labels, 16.0, WIDTHS, 20).backward()

    assert live.peak == 0
    assert int((weight.grad != 0).any(1).sum()) == 20
