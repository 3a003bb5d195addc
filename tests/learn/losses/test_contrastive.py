"""Contrastive losses over a memory: earlier rows count, without gradient, and a resumed run has them too."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor

from galleria.errors import ConfigurationError
from galleria.families.category_tree.task import pair_contrast
from galleria.learn.losses.contrastive import MinedLoss, mined_pair_contrast, supervised_contrastive
from galleria.learn.losses.mining import Mining

LABELS = torch.tensor([0, 0, 1, 1, 2])


def pair_loss(mining: Mining) -> MinedLoss:
    return mined_pair_contrast(1.0, mining, 6)


def softmax_loss(mining: Mining) -> MinedLoss:
    return supervised_contrastive(0.1, mining, 6)


PLAIN: dict[Callable[[Mining], MinedLoss], Callable[[Tensor, Tensor], Tensor]] = {
    pair_loss: lambda vectors, labels: pair_contrast(vectors, labels, 1.0),
    softmax_loss: SupConLoss(0.1),
}


def vectors(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(5, 6, generator=generator), dim=1).requires_grad_()


def tangent(unit_vectors: Tensor) -> Tensor:
    """The gradient without its part along the vectors, which normalisation removes."""
    gradient, along = unit_vectors.grad, unit_vectors.detach()
    return gradient - (gradient * along).sum(1, keepdim=True) * along


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize("memory_size", [0, 5, 50])
def test_first_step_compares_batch_alone(make, memory_size):
    found, expected = vectors(0), vectors(0)

    loss = make(Mining(memory_size=memory_size))(found, LABELS)
    loss.backward()
    plain = PLAIN[make](expected, LABELS)
    plain.backward()

    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    if memory_size == 0:  # else the other row of a pair is a constant
        torch.testing.assert_close(tangent(found), tangent(expected), rtol=1e-4, atol=1e-5)


def test_earlier_rows_are_compared():
    loss = pair_loss(Mining(memory_size=20))
    earlier, batch = vectors(0), vectors(1)
    loss(earlier, LABELS)

    found = loss(batch, LABELS)
    found.backward()

    everything, labels = torch.cat([earlier, batch]).detach(), torch.cat([LABELS, LABELS])
    distances = torch.cdist(batch.detach(), everything)
    same = LABELS[:, None] == labels[None]
    itself = torch.arange(5)[:, None] + 5 == torch.arange(10)[None]
    positives = distances[same & ~itself].square().mean()
    negatives = (1 - distances[~same]).clamp(min=0).square().mean()
    assert found.item() == pytest.approx(float(positives + negatives) / 2, abs=1e-5)
    assert earlier.grad is None
    assert batch.grad.abs().sum() > 0


@pytest.mark.parametrize("make", PLAIN)
def test_memory_keeps_newest_rows(make):
    forgetful, long = make(Mining(memory_size=10)), make(Mining(memory_size=100))
    for loss, seeds in ((forgetful, (7, 8, 0)), (long, (0,))):
        for seed in seeds:
            loss(vectors(seed), LABELS)

    assert forgetful(vectors(1), LABELS).item() == pytest.approx(long(vectors(1), LABELS).item(), abs=1e-5)


def test_resumed_memory_goes_on_alike():
    mining = Mining(memory_size=8, miner="multi_similarity")
    interrupted, resumed = pair_loss(mining), pair_loss(mining)
    for seed in range(3):
        interrupted(vectors(seed), LABELS)
    resumed.load_state_dict(interrupted.state_dict())

    for seed in range(3, 6):
        assert resumed(vectors(seed), LABELS).item() == interrupted(vectors(seed), LABELS).item()


def test_memory_smaller_than_batch_is_rejected():
    with pytest.raises(ConfigurationError, match="memory_size=4 is less than the 5 rows of a step"):
        pair_loss(Mining(memory_size=4))(vectors(0), LABELS)
