"""Losses that metric-learning libraries do not have; each is a plain function of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def difference(images: Tensor, texts: Tensor) -> Tensor:
    """Compute mean‖v − t‖² over pairs of unit vectors `[B, D]` (CN113159095A, first loss).

    Its trivial optimum is one constant vector for everything, so it never trains a model alone.
    """
    return (images - texts).square().sum(1).mean()


def label_aware_sigmoid(images: Tensor, texts: Tensor, keys: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Compute the sigmoid loss over all pairs of a batch, positives by key (after Zhai et al., "SigLIP", 2023).

    −1/B Σ_ij log σ(z_ij (scale · v_i·t_j + bias)), z_ij = 1 where keys agree and −1 elsewhere. The usual
    implementation takes only the diagonal as positive, which is wrong where a product has several pictures.

    Args:
        images: `[B, D]` unit vectors.
        texts: `[B, D]` unit vectors.
        keys: `[B]` integers naming the product.
        scale: scalar temperature.
        bias: scalar offset against the many negatives.
    """
    logits = scale * images @ texts.T + bias
    signs = torch.where(keys[:, None] == keys[None], 1.0, -1.0)
    return -F.logsigmoid(signs * logits).sum(1).mean()
