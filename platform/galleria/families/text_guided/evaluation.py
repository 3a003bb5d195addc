"""The scores of `text_guided`."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from galleria.learn.family import Labels
from galleria.learn.gallery import ranked_columns, scores_by_source, sides
from galleria.learn.metrics.open_set import no_match
from galleria.learn.metrics.retrieval import retrieval
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score R@1, R@5, R@10 and mAP@R of the queries against the gallery, over all and for each source, and `no_match`.

    With a text tower also "text/…": every distinct query product's text against the same pictures.
    """
    table = ranked_columns(pairs, ("product", "source", "role", "token_mask"))
    if not table:
        return {}
    side = sides(table)
    vectors, products = table["embedding"], table["product"]
    queries, query_products = vectors[side.queries], products[side.queries]
    gallery, gallery_products = vectors[side.gallery], products[side.gallery]
    ranking = retrieval(queries, query_products, gallery, gallery_products, same_row=side.same_row)
    scores = scores_by_source(ranking.values, table["source"][side.queries], labels["source"])
    scores |= no_match(queries, query_products, gallery, gallery_products, side.same_row)
    if "text_embedding" in table:
        rows = _first_of_each(products, side.queries & table["token_mask"].any(1))
        texts, text_products = table["text_embedding"][rows], products[rows]
        ranking = retrieval(texts, text_products, gallery, gallery_products)
        scores |= {f"text/{metric}": bootstrap(values) for metric, values in ranking.values.items()}
        unmatched = no_match(texts, text_products, gallery, gallery_products)
        scores |= {f"text/{metric}": score for metric, score in unmatched.items()}
    return scores


def _first_of_each(keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first row of every key within the mask."""
    rows = mask.nonzero().squeeze(1)
    _, first = np.unique(keys[rows].numpy(), return_index=True)
    return rows[torch.from_numpy(np.sort(first))]
