"""A no-match score for searches, calibrated on queries whose product is left out of the gallery."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.learn.metrics.score import Floats, Score, bootstrap
from galleria.learn.metrics.similarity import similarity_chunks

FALSE_MATCHES = 0.05
"""Share of queries without a product in the gallery that still have a match."""


def no_match(
    queries: Tensor, query_keys: Tensor, gallery: Tensor, gallery_keys: Tensor, same_row: Tensor | None = None
) -> dict[str, Score]:
    """Compute the score below which a hit is no match, and how many queries keep their match.

    Every query is searched twice: in the full gallery, and in the gallery without the query's own product (open-set
    identification, Phillips, Grother & Micheals, "Evaluation Methods in Face Recognition", 2011). "no_match/score" is
    the smallest score that at most `FALSE_MATCHES` of the second kind reach; its interval comes from resampled
    queries. "no_match/kept" is the share of the first kind that have a hit of their product at or over the score that
    the other half of the products gives: where it is low, a service gives no verdict. A larger gallery has nearer
    strangers, so the score holds for galleries like this one.

    Args:
        queries: `[Q, D]` embeddings.
        query_keys: `[Q]` integers; equal keys are relevant to each other.
        gallery: `[G, D]` embeddings.
        gallery_keys: `[G]` integers.
        same_row: `[Q]` gallery row that is the query itself and is excluded from its results; -1 for none.

    Returns:
        Empty where no query has both its product and another one in the gallery.
    """
    if len(gallery) == 0:
        return {}
    parts = []
    for chunk in similarity_chunks(queries, gallery, same_row):
        own_QG = query_keys[chunk.rows, None] == gallery_keys[None]
        sides = [chunk.similarity.masked_fill(~side_QG, -torch.inf).amax(1) for side_QG in (own_QG, ~own_QG)]
        parts.append(torch.stack(sides, 1))
    best = torch.cat(parts).double().cpu().numpy()
    defined = np.isfinite(best).all(1)
    own, strangers = best[defined].T
    if len(own) == 0:
        return {}
    kept = own >= _scores_of_other_half(strangers, query_keys.cpu().numpy()[defined])
    return {
        "no_match/score": bootstrap(strangers, statistic=_match_score),
        "no_match/kept": bootstrap(kept.astype(np.float64)),
    }


def _scores_of_other_half(strangers: Floats, keys: NDArray[np.int64]) -> Floats:
    """Return for every query the score that the other half of the products gives; with one product, its own."""
    _, products = np.unique(keys, return_inverse=True)
    half: NDArray[np.bool_] = products % 2 == 0
    if half.all():
        return np.full(len(strangers), _match_score(strangers))
    scores: Floats = np.where(half, _match_score(strangers[~half]), _match_score(strangers[half]))
    return scores


def _match_score(strangers: Floats) -> Any:
    """Return the smallest score that at most `FALSE_MATCHES` of the strangers `[…, N]` reach."""
    count = strangers.shape[-1]
    index = count - 1 - int(FALSE_MATCHES * count)
    return np.nextafter(np.partition(strangers, index)[..., index], np.inf)
