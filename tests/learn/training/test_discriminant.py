"""Closed-form heads: the telling direction comes first, and a line that is there is found."""

import pytest
import torch

from galleria.learn.training.discriminant import (
    class_directions,
    discriminant_projection,
    ridge_regression,
    start_projection,
)


def two_classes(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes one apart on the first axis, with a deviation of .1 there and of `noise` on the second."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    features = torch.randn(400, 3, generator=generator) * torch.tensor([0.1, noise, 1.0])
    features[:, 0] += labels
    return features, labels


def test_first_direction_separates_classes():
    features, labels = two_classes(noise=2.0)

    weights = discriminant_projection(features, labels, dimension=1, shrinkage=0.0)

    projected = (features @ weights.T).squeeze(1)
    gap = (projected[labels == 1].mean() - projected[labels == 0].mean()).abs()
    assert weights.shape == (1, 3)
    assert gap / projected[labels == 0].std() > 8  # ten deviations on the first axis
    assert weights[0, 0].abs() > 10 * weights[0, 1:].abs().max()


def test_surplus_directions_are_zero():
    features, labels = two_classes(noise=5.0)

    weights = discriminant_projection(features, labels, dimension=3)

    means = torch.stack([(features @ weights.T)[labels == label].mean(0) for label in (0, 1)])
    assert weights.shape == (3, 3)
    assert torch.allclose(means[0, 1:], means[1, 1:], atol=1e-3)
    assert (means[0, 0] - means[1, 0]).abs() > 0.1


def test_one_sample_a_class_is_enough():
    weights = discriminant_projection(torch.eye(3), torch.arange(3), dimension=2)

    assert weights.isfinite().all()
    assert torch.unique(weights.T, dim=0).shape == (3, 2)


def test_start_projection_is_affine_in_features():
    features, labels = two_classes(noise=2.0)
    head = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.BatchNorm1d(2))

    vectors = start_projection(head, features, labels)

    projected = features @ discriminant_projection(features, labels, 2).T
    centred = projected - projected.mean(0)
    assert torch.allclose(head[1](head[0](features)), centred / projected.std(0).mean(), atol=1e-4)
    assert torch.allclose(vectors, torch.nn.functional.normalize(centred, dim=1), atol=1e-3)
    assert (class_directions(vectors, labels, 2) @ vectors.T).argmax(0).eq(labels).float().mean() > 0.99


def test_class_directions_worked_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])

    found = class_directions(vectors, torch.tensor([0, 0, 2]), 3)

    assert torch.allclose(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 0.0], [0.0, 1.0]]))


def test_ridge_finds_linear_relation():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 4, generator=generator)
    weight, bias = torch.randn(2, 4, generator=generator), torch.tensor([3.0, -1.0])

    found_weight, found_bias = ridge_regression(inputs, inputs @ weight.T + bias, strength=1e-9)

    assert torch.allclose(found_weight, weight, atol=1e-4)
    assert torch.allclose(found_bias, bias, atol=1e-4)


@pytest.mark.parametrize(
    ("strength", "slope", "offset"),
    [
        (1.0, 1, 2),  # centred inputs ±1, targets ±2: gram 2, penalty 1 × 2, so 4 / (2 + 2); 3 − 1 × 1
        (3.0, 0.5, 2.5),  # 4 / (2 + 6); 3 − .5
        (1e9, 0, 3),  # nothing but the mean
    ],
)
def test_ridge_penalty_worked_by_hand(strength, slope, offset):
    weight, bias = ridge_regression(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]), strength)

    assert weight.item() == pytest.approx(slope, abs=1e-6)
    assert bias.item() == pytest.approx(offset)
