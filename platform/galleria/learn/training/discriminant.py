"""Linear discriminant analysis: the linear projection that separates classes best, in closed form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def discriminant_projection(features: Tensor, labels: Tensor, dimension: int, shrinkage: float = 0.5) -> Tensor:
    """Whiten by the covariance within classes, then keep the main directions of the class means (Fisher, 1936).

    Args:
        features: `[N, C]`.
        labels: `[N]` integers.
        dimension: number of directions, at most C; where the class means span fewer, the rest are zero.
        shrinkage: share of the within-class covariance that is replaced by a multiple of the identity, which
            keeps it invertible with few samples a class.

    Returns:
        `[dimension, C]` weights of a linear layer, most discriminative direction first.
    """
    values = features.double()
    classes, index = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(index)[:, None]
    means = torch.zeros(len(classes), values.shape[1], dtype=values.dtype).index_add_(0, index, values) / counts
    within = values - means[index]
    covariance = within.T @ within / max(1, len(values) - len(classes))
    identity = torch.eye(len(covariance), dtype=values.dtype) * covariance.diagonal().mean().clamp(min=1e-12)
    variances, axes = torch.linalg.eigh((1 - shrinkage) * covariance + shrinkage * identity)
    whiten = axes / variances.sqrt()
    directions = torch.linalg.svd((means - means.mean(0)) @ whiten, full_matrices=False).Vh[:dimension]
    weights = torch.zeros(dimension, values.shape[1], dtype=values.dtype)
    weights[: len(directions)] = directions @ whiten.T
    return weights.to(features.dtype)


@torch.no_grad()
def start_projection(head: nn.Sequential, features: Tensor, labels: Tensor) -> Tensor:
    """Set a linear layer without bias and the BatchNorm behind it to the discriminant analysis of `features` `[N, C]`.

    Returns:
        `[N, D]` unit vectors of the features: the normalised output of the two layers in evaluation mode.
    """
    linear, norm = head
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    linear.weight.copy_(discriminant_projection(features, labels, linear.out_features))
    projected = features @ linear.weight.to(features.device).T
    spread = projected.std(0)
    norm.running_mean.copy_(projected.mean(0))
    norm.running_var.copy_(projected.var(0))
    norm.weight.copy_(spread / spread.mean())  # undoes the normalisation but for one common factor
    vectors = head.eval()(features.to(linear.weight.device))
    return F.normalize(vectors, dim=1).to(features.device)


def class_directions(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return `[classes, D]` unit vectors towards the mean of each class's unit vectors `[N, D]`."""
    means = torch.zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors)
    return F.normalize(means, dim=1)


def ridge_regression(inputs: Tensor, targets: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Fit weight `[D, C]` and bias `[D]` of a linear layer from `inputs` `[N, C]` to `targets` `[N, D]`.

    Least squares with `strength` × the mean variance of the inputs as penalty on the weight.
    """
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean)
    penalty = strength * gram.diagonal().mean().clamp(min=1e-12)
    weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=x.dtype), (x - x_mean).T @ (y - y_mean)).T
    return weight.to(inputs.dtype), (y_mean - weight @ x_mean).to(inputs.dtype)
