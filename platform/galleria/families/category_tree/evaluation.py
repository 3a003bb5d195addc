"""The scores of `category_tree`."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from galleria.learn.family import Labels
from galleria.learn.gallery import ranked_columns, scores_by_source, sides
from galleria.learn.metrics.hierarchy import hierarchical_retrieval
from galleria.learn.metrics.open_set import no_match
from galleria.learn.metrics.retrieval import retrieval
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.types import Batch, Outputs


def evaluate(pairs: Iterable[tuple[Batch, Outputs]], labels: Labels) -> Mapping[str, Score]:
    """Score retrieval of the queries in the gallery, over all and for each source, and accuracy on every level.

    R@1, R@5, R@10 and mAP@R on products; CC_l@10 for every category level l; H-AP, AHP@10 and NDCG on the
    category levels with the product as the leaf. "level_l/accuracy" is compared with "level_l/majority/accuracy",
    that of always predicting the most frequent class of these rows. And `no_match`.
    """
    table = ranked_columns(_likeliest(pairs), ("product", "source", "role", "path", "label"))
    if not table:
        return {}
    side = sides(table)
    vectors, products = table["embedding"], table["product"]
    queries, query_products = vectors[side.queries], products[side.queries]
    gallery, gallery_products = vectors[side.gallery], products[side.gallery]
    flat = retrieval(queries, query_products, gallery, gallery_products, same_row=side.same_row)
    paths = torch.cat([table["path"], products[:, None]], 1)
    graded = hierarchical_retrieval(queries, paths[side.queries], gallery, paths[side.gallery], side.same_row)
    leaf = f"CC_{paths.shape[1]}@10"
    values = {**flat.values, **{name: value for name, value in graded.values.items() if name != leaf}}
    scores = scores_by_source(values, table["source"][side.queries], labels["source"])
    scores |= no_match(queries, query_products, gallery, gallery_products, side.same_row)
    return scores | _accuracies(table)


def _likeliest(pairs: Iterable[tuple[Batch, Outputs]]) -> Iterator[tuple[Batch, Outputs]]:
    """Yield the pairs with the likeliest class in place of all probabilities, which can fill the memory."""
    for batch, outputs in pairs:
        yield (
            batch,
            {name: value.argmax(1) if name.startswith("level_") else value for name, value in outputs.items()},
        )


def _accuracies(table: Mapping[str, torch.Tensor]) -> dict[str, Score]:
    scores = {}
    for index, labels in enumerate(table["label"][table["evaluated"]].numpy().T):
        level, known = f"level_{index + 1}", labels >= 0
        if level in table and known.any():
            majority = np.bincount(labels[known]).argmax()
            for name, predicted in (("", table[level][table["evaluated"]].numpy()), ("majority/", majority)):
                correct = np.where(known, predicted == labels, np.nan)
                scores[f"{level}/{name}accuracy"] = bootstrap(correct)
    return scores
