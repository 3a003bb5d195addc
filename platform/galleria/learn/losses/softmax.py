"""Softmax cross-entropy over many classes, with bounded memory."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def class_softmax(
    vectors: Tensor, weight: Tensor, labels: Tensor, scale: float, widths: Sequence[int], sampled_classes: int = 0
) -> Tensor:
    """Average CE(scale · v_d · w_d) over the leading `widths` d of the vectors (Kusupati et al., "Matryoshka", 2022).

    v_d are unit vectors. The logits `[B, K]` of one width are held at a time: those of the others are computed again
    for the gradient, which is the same.

    Args:
        vectors: `[B, D]`; their slices are normalised here.
        weight: `[K, D]`, a row for each class.
        labels: `[B]` classes.
        scale: s of the logits.
        widths: leading dimensions, each at most D.
        sampled_classes: number of classes that a step scores, by `sample_classes`; 0, or K and more, is all.

    Returns:
        The mean over the rows and widths.
    """
    correction: Tensor | None = None
    if 0 < sampled_classes < len(weight):
        classes, correction = sample_classes(labels, len(weight), sampled_classes)
        weight, labels = weight[classes], torch.searchsorted(classes, labels.contiguous())

    def term(width: int) -> Tensor:
        logits_BK = scale * F.normalize(vectors[:, :width], dim=1) @ weight[:, :width].T
        return F.cross_entropy(logits_BK if correction is None else logits_BK + correction, labels)

    if len(widths) == 1:
        return term(widths[0])
    terms = [checkpoint(term, width, use_reentrant=False, preserve_rng_state=False) for width in widths]
    return torch.stack(terms).mean()


def sample_classes(labels: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw the classes of one step: all targets, and others uniformly without replacement.

    Targets of the batch are always scored (An et al., "Partial FC", 2021). The logit of another class is corrected
    by −log q, q being its probability of being drawn, so that the expected sum of the exponentials is that over all
    classes (Bengio & Senécal, "Adaptive Importance Sampling", 2008; Jean et al., "On Using Very Large Target
    Vocabulary", 2015).

    Args:
        labels: `[B]` targets.
        classes: K.
        count: classes to draw, the targets included; if there are more targets, these alone.

    Returns:
        `[C]` sorted classes, and the correction `[C]` of their logits: 0 for the targets.
    """
    targets = torch.unique(labels)
    order = torch.rand(classes, device=labels.device)
    order[targets] = -1
    drawn = order.topk(max(count, len(targets)), largest=False).indices.sort().values
    others = len(drawn) - len(targets)
    correction = torch.full((len(drawn),), -math.log(others / (classes - len(targets))) if others else 0.0)
    correction = correction.to(labels.device)
    correction[torch.searchsorted(drawn, targets)] = 0
    return drawn, correction
