"""Queries and the gallery they search, for all families that rank."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from galleria.learn.evaluation import collect, rows_by_source
from galleria.learn.gallery_rows import ROLES
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.types import Batch, Outputs, Row


def ranked_columns(pairs: Iterable[tuple[Batch, Outputs]], inputs: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the columns of `collect`, and "evaluated": true for rows whose batch does not say otherwise."""

    def with_evaluated() -> Iterator[tuple[Batch, Outputs]]:
        for batch, outputs in pairs:
            yield {"evaluated": torch.ones_like(batch["role"], dtype=torch.bool), **batch}, outputs

    return collect(with_evaluated(), (*inputs, "evaluated"))


def has_positive(rows: Iterable[Row]) -> bool:
    """Whether a query among `rows` has another picture of its product in the gallery: else no ranking has a score."""
    queries, gallery, pictures = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        role = row.get("role") or "both"
        pictures[row["product_id"]] += 1
        queries[row["product_id"]] += role != "gallery"
        gallery[row["product_id"]] += role != "query"
    return any(queries[product] and gallery[product] and count > 1 for product, count in pictures.items())


@dataclass(frozen=True)
class Sides:
    """Which rows are queries and which are the gallery.

    Attributes:
        queries: bool `[N]`.
        gallery: bool `[N]`.
        same_row: `[Q]` for each query its own index in the gallery, or -1.
    """

    queries: torch.Tensor
    gallery: torch.Tensor
    same_row: torch.Tensor


def sides(table: Mapping[str, torch.Tensor]) -> Sides:
    """Part rows by their role. Rows that are not evaluated are distractors: they are in the gallery only."""
    queries = table["evaluated"] & (table["role"] != ROLES.index("gallery"))
    gallery = table["role"] != ROLES.index("query")
    index = torch.where(gallery, gallery.cumsum(0) - 1, -1)
    return Sides(queries, gallery, index[queries])


def scores_by_source(
    values: Mapping[str, NDArray[np.float64]], sources: torch.Tensor, names: tuple[str, ...]
) -> dict[str, Score]:
    """Score all queries by metric, and as "source/metric" those of each source that has a query.

    Args:
        values: metric → `[Q]` values.
        sources: `[Q]` indices into `names`, or -1.
        names: of the sources; the empty one has no scores of its own.
    """
    scores = {metric: bootstrap(value) for metric, value in values.items()}
    for name, rows in rows_by_source(sources.numpy(), names):
        scores |= {f"{name}/{metric}": bootstrap(value[rows]) for metric, value in values.items()}
    return scores
