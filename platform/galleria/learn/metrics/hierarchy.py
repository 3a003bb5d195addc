"""Trees of categories, and retrieval metrics that give credit for a result in the right branch.

No common library has these metrics per query, so they are written out here. All of them read one table:
`levels` `[Q, N]`, how many tree levels each ranked result shares with its query, 0 (nothing) to L (the leaf),
and −1 where a ranking is shorter than the table, always at its end.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.learn.metrics.retrieval import Retrieval
from galleria.learn.metrics.score import Floats
from galleria.learn.metrics.similarity import similarity_chunks

MAX_RANKED_RESULTS = 4_000_000
"""Ranked results held at a time: bounds the memory of a large gallery."""


def hierarchical_retrieval(
    queries: Tensor,
    query_paths: Tensor,
    gallery: Tensor,
    gallery_paths: Tensor,
    same_row: Tensor | None = None,
    k: int = 10,
) -> Retrieval:
    """Compute CC_l@k for every level l, H-AP, AHP@k and NDCG of rankings by inner product.

    Args:
        queries: `[Q, D]` embeddings.
        query_paths: `[Q, L]` integers naming the class on every level, root level first; negative is unknown.
        gallery: `[G, D]` embeddings.
        gallery_paths: `[G, L]` likewise.
        same_row: `[Q]` gallery row that is the query itself and is excluded from its results; -1 for none.
        k: results that CC and AHP look at.

    Returns:
        Values by metric; NaN for a query that shares nothing with the whole gallery (for CC, not that level).
    """
    depth = query_paths.shape[1]
    parts: list[dict[str, Floats]] = []
    size = max(1, MAX_RANKED_RESULTS // max(1, len(gallery)))
    for chunk in similarity_chunks(queries, gallery, same_row, size):
        levels_QG = shared_levels(query_paths[chunk.rows], gallery_paths)
        levels_QG[chunk.itself] = -1
        order = chunk.similarity.argsort(dim=1, descending=True, stable=True)
        levels = levels_QG.gather(1, order).numpy()
        values = {f"CC_{level}@{k}": level_consistency(levels, level, k) for level in range(1, depth + 1)}
        values["H-AP"] = hierarchical_average_precision(levels, depth)
        values[f"AHP@{k}"] = average_hierarchical_precision(levels, depth, k)
        values["NDCG"] = normalized_discounted_gain(levels)
        parts.append(values)
    joined = {name: np.concatenate([values[name] for values in parts]) for name in parts[0]}
    return Retrieval(joined, int(np.isnan(joined["H-AP"]).sum()))


def shared_levels(query_paths: Tensor, gallery_paths: Tensor) -> Tensor:
    """Return the length `[Q, G]` of the common prefix of paths `[Q, L]` and `[G, L]`; unknown classes never match."""
    shared_QG = torch.zeros(len(query_paths), len(gallery_paths), dtype=torch.int64)
    so_far = torch.ones_like(shared_QG, dtype=torch.bool)
    for level in range(query_paths.shape[1]):
        mine = query_paths[:, None, level]
        so_far &= (mine == gallery_paths[None, :, level]) & (mine >= 0)
        shared_QG += so_far
    return shared_QG


def level_consistency(levels: NDArray[np.int64], level: int, k: int) -> Floats:
    """Compute CC_l@K: the share of the first K results that share the query's class on `level` (1 is the root level).

    NaN for a query whose class nothing in its ranking shares.
    """
    top = levels[:, :k]
    defined: NDArray[np.bool_] = np.any(levels >= level, axis=1)
    return _ratio((top >= level).sum(1), (top >= 0).sum(1), defined)


def hierarchical_average_precision(levels: NDArray[np.int64], depth: int, alpha: float = 1.0) -> Floats:
    """Compute H-AP (Ramzi et al., "Hierarchical Average Precision Training for Pertinent Image Retrieval", 2022).

    Σ_k Hrank(k)/rank(k) / Σ_k rel(k), Hrank(k) = rel(k) + Σ_{j before k} min(rel(k), rel(j)), and
    rel = (l/L)^α / |Ω_l| for a result that shares exactly l levels, Ω_l being all such results of the query.
    """
    sizes = np.stack([(levels == level).sum(1) for level in range(1, depth + 1)], 1)
    gain = (np.arange(1, depth + 1) / depth) ** alpha / np.maximum(sizes, 1)
    relevance = np.zeros(levels.shape)
    for level in range(1, depth + 1):
        relevance += (levels == level) * gain[:, level - 1, None]
    rank = np.arange(1, levels.shape[1] + 1)
    total = relevance.copy()
    for level in range(1, depth + 1):  # few levels: results before k are counted by theirs, not pair by pair
        before = (levels == level).cumsum(1) - (levels == level)
        total += before * np.minimum(relevance, gain[:, level - 1, None])
    return _ratio((total / rank).sum(1), relevance.sum(1))


def hierarchical_precision(levels: NDArray[np.int64], depth: int, k: int) -> Floats:
    """Compute HP@1…HP@K `[Q, K]` (Barz & Denzler, "Hierarchy-based Image Embeddings", 2019).

    HP@K = Σ_{i≤K} s(q, i) / the largest possible sum, with s = 1 − height(lcs)/height(root) = l/L.
    """
    similarity = np.maximum(levels, 0) / depth
    k = min(k, levels.shape[1])
    best = -np.sort(-similarity, axis=1)[:, :k].cumsum(1)
    return _ratio(similarity[:, :k].cumsum(1), best)


def average_hierarchical_precision(
    levels: NDArray[np.int64], depth: int, k: int, barz_compatible: bool = False
) -> Floats:
    """Compute AHP@K, the mean of HP@1…HP@K.

    With `barz_compatible`, as the authors' published code has it: integrated with the trapezoid rule and
    divided by K, so that a perfect ranking scores (K − 1)/K.
    """
    precision = hierarchical_precision(levels, depth, k)
    if not precision.shape[1]:
        return np.full(len(levels), np.nan)
    if barz_compatible:
        trapezoid: Floats = np.trapezoid(precision, axis=1) / precision.shape[1]
        return trapezoid
    mean: Floats = precision.mean(1)
    return mean


def normalized_discounted_gain(levels: NDArray[np.int64]) -> Floats:
    """Compute NDCG over the whole ranking, with the gain 2^l − 1 and the discount 1/log2(rank + 1)."""
    gains = 2.0 ** np.maximum(levels, 0) - 1
    discount = 1 / np.log2(np.arange(2, levels.shape[1] + 2))
    return _ratio((gains * discount).sum(1), (-np.sort(-gains, axis=1) * discount).sum(1))


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any], defined: NDArray[np.bool_] | None = None) -> Floats:
    """Divide; the result is at most 1 whatever rounding does, and NaN where it is not `defined`."""
    defined = denominator > 0 if defined is None else defined
    ratio = np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=defined)
    bounded: Floats = np.minimum(ratio, 1.0)
    return bounded
