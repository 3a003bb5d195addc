"""When a search has found nothing: a score calibrated on queries whose product is left out of the gallery."""

import numpy as np
import torch
from torch import Tensor

from galleria.learn.metrics.retrieval import CHUNK, Score, bootstrap

FALSE_MATCHES = 0.05
"""Share of queries without a product in the gallery that still find something."""


def no_match(
    queries: Tensor, query_keys: Tensor, gallery: Tensor, gallery_keys: Tensor, same_row: Tensor | None = None
) -> dict[str, Score]:
    """The score below which a hit is no match, and how many queries keep theirs.

    Every query is asked twice: against the gallery as it is, and against what is left of it without the query's own
    product, as if that were not sold (open-set identification, Phillips, Grother & Micheals, "Evaluation Methods in
    Face Recognition", 2011). "no_match/score" is the smallest score that at most `FALSE_MATCHES` of the second kind
    reach; its interval comes from resampled queries. "no_match/kept" is the share of the first kind that have a hit of
    their product at or over it. A larger gallery holds nearer strangers, so the score is one for galleries like this.

    Args:
        queries: `[Q, D]` embeddings.
        query_keys: `[Q]` integers; equal keys are relevant to each other.
        gallery: `[G, D]` embeddings.
        gallery_keys: `[G]` integers.
        same_row: `[Q]` gallery row that is the query itself and is excluded from its results; -1 for none.

    Returns:
        Empty where no query has both its product and another one in the gallery.
    """
    if same_row is None:
        same_row = torch.full_like(query_keys, -1)
    parts = []
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        similarity_QG = queries[part].float() @ gallery.float().T
        itself = same_row[part]
        excluded = (itself >= 0).nonzero().squeeze(1)
        similarity_QG[excluded, itself[excluded]] = -torch.inf
        own_QG = query_keys[part, None] == gallery_keys[None]
        parts.append(torch.stack([similarity_QG.masked_fill(~own, -torch.inf).amax(1) for own in (own_QG, ~own_QG)], 1))
    best = torch.cat(parts).double().cpu().numpy() if parts and len(gallery) else np.empty((0, 2))
    own, strangers = best[np.isfinite(best).all(1)].T
    if len(own) == 0:
        return {}
    score = bootstrap(strangers, statistic=_least)
    return {"no_match/score": score, "no_match/kept": bootstrap((own >= score.value).astype(np.float64))}


def _least(strangers: np.ndarray) -> float:
    """The smallest number that at most so many of them reach."""
    reaching = int(FALSE_MATCHES * len(strangers))
    return float(np.nextafter(np.sort(strangers)[len(strangers) - 1 - reaching], np.inf))
