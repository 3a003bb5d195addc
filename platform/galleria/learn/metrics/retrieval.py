"""Retrieval metrics per query.

Common libraries return means; a paired bootstrap needs the value of every query, so these are computed here and
tested to equal torchmetrics and pytorch-metric-learning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.learn.metrics.similarity import similarity_chunks


@dataclass(frozen=True)
class Retrieval:
    """Retrieval quality of every query.

    Attributes:
        values: metric name ("R@1", …, "mAP@R") → `[Q]` values; NaN for a query without a positive in the
            gallery, which has no defined value and is left out of every mean.
        dropped: how many those are.
    """

    values: Mapping[str, NDArray[np.float64]]
    dropped: int


def retrieval(
    queries: Tensor,
    query_keys: Tensor,
    gallery: Tensor,
    gallery_keys: Tensor,
    ranks: Sequence[int] = (1, 5, 10),
    same_row: Tensor | None = None,
) -> Retrieval:
    """Compute R@K and mAP@R (Musgrave, Belongie & Lim, "A Metric Learning Reality Check", 2020) by inner product.

    R@K is 1 where any of the first K results shares the query's key. mAP@R = 1/R Σ_{i≤R} precision@i · rel_i
    with R the number of positives.

    Args:
        queries: `[Q, D]` embeddings.
        query_keys: `[Q]` integers; equal keys are relevant to each other.
        gallery: `[G, D]` embeddings.
        gallery_keys: `[G]` integers.
        ranks: the K of R@K.
        same_row: `[Q]` gallery row that is the query itself and is excluded from its results; -1 for none.
    """
    assert queries.ndim == 2 and queries.shape[1:] == gallery.shape[1:], "embeddings must be [rows, D]"
    values = {name: np.full(len(queries), np.nan) for name in (*(f"R@{k}" for k in ranks), "mAP@R")}
    dropped = 0
    for chunk in similarity_chunks(queries, gallery, same_row):
        relevant_QG = query_keys[chunk.rows, None] == gallery_keys[None]
        relevant_QG[chunk.itself] = False
        positives = relevant_QG.sum(1)
        defined = positives > 0
        dropped += int((~defined).sum())
        if not defined.any():
            continue
        positives = positives[defined]
        depth = min(len(gallery), max(*ranks, int(positives.max())))
        top = chunk.similarity[defined].topk(depth).indices
        hits = relevant_QG[defined].gather(1, top).double()
        rank = torch.arange(1, depth + 1, device=hits.device)
        precision = hits.cumsum(1) / rank
        rows = chunk.rows.start + defined.nonzero().squeeze(1).cpu().numpy()
        for k in ranks:
            values[f"R@{k}"][rows] = hits[:, :k].amax(1).cpu().numpy()
        counted = rank <= positives[:, None]
        values["mAP@R"][rows] = ((precision * hits * counted).sum(1) / positives).cpu().numpy()
    return Retrieval(values, dropped)
