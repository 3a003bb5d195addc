"""Retrieval metrics per query, and scores with their confidence interval.

The libraries of the field return means; a paired bootstrap needs the value of every query, so these are
computed here and tested to equal torchmetrics and pytorch-metric-learning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1024
"""Queries compared with the gallery at a time: bounds memory to CHUNK × gallery similarities."""


@dataclass(frozen=True)
class Score:
    """A mean over `count` samples with its 95 % bootstrap interval; `dropped` more had no defined value."""

    value: float
    low: float
    high: float
    count: int
    dropped: int = 0


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
    """R@K and mAP@R (Musgrave, Belongie & Lim, "A Metric Learning Reality Check", 2020) by inner product.

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
    if same_row is None:
        same_row = torch.full_like(query_keys, -1)
    values = {name: np.full(len(queries), np.nan) for name in (*(f"R@{k}" for k in ranks), "mAP@R")}
    dropped = 0
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        relevant_QG = query_keys[part, None] == gallery_keys[None]
        itself = same_row[part]
        excluded = (itself >= 0).nonzero().squeeze(1)
        relevant_QG[excluded, itself[excluded]] = False
        positives = relevant_QG.sum(1)
        kept = positives > 0
        dropped += int((~kept).sum())
        if not kept.any():
            continue
        similarity_QG = queries[part].float() @ gallery.float().T
        similarity_QG[excluded, itself[excluded]] = -torch.inf
        depth = min(len(gallery), max(*ranks, int(positives.max())))
        top = similarity_QG[kept].topk(depth).indices
        hits = relevant_QG[kept].gather(1, top).double()
        rank = torch.arange(1, depth + 1, device=hits.device)
        counted = rank <= positives[kept, None]
        precision = hits.cumsum(1) / rank
        rows = start + kept.nonzero().squeeze(1).cpu().numpy()
        for k in ranks:
            values[f"R@{k}"][rows] = hits[:, :k].amax(1).cpu().numpy()
        values["mAP@R"][rows] = ((precision * hits * counted).sum(1) / positives[kept]).cpu().numpy()
    return Retrieval(values, dropped)


def bootstrap(
    values: NDArray[np.float64],
    resamples: int = 1000,
    seed: int = 0,
    statistic: Callable[[NDArray[np.float64]], Any] = np.mean,
) -> Score:
    """Mean (or another `statistic`) of `values` without NaN, with its 95 % percentile-bootstrap interval.

    A seed gives one interval.
    """
    every = len(values)
    values = values[~np.isnan(values)]
    dropped = every - len(values)
    if len(values) == 0:
        return Score(float("nan"), float("nan"), float("nan"), 0, dropped)
    generator = np.random.default_rng(seed)
    found = [statistic(generator.choice(values, len(values))) for _ in range(resamples)]
    low, high = np.percentile(found, (2.5, 97.5))
    return Score(float(statistic(values)), float(low), float(high), len(values), dropped)
