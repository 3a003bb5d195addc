"""Queries and the gallery they search: what all families that rank have in common."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.learn.family import Labels, places
from galleria.learn.metrics.score import Score, bootstrap
from galleria.learn.task import Batch, Outputs, Row

ROLES = ("both", "query", "gallery")


def gallery_columns(row: Row, labels: Labels) -> dict[str, Any]:
    """What ranking needs of a row with a product.

    `product` a 63-bit key that is equal for equal products; `source` a place in `labels["source"]` or -1;
    `role` a place in `ROLES`.

    Raises:
        DataError: the role is unknown.
    """
    role = row.get("role") or "both"
    if role not in ROLES:
        raise DataError(f"role {role!r} is unknown: use 'query', 'gallery', or leave it empty for both")
    return {
        "product": stable_key(row["product_id"]),
        "source": np.int64(places(labels["source"]).get(row.get("source") or "", -1)),
        "role": np.int64(ROLES.index(role)),
    }


def stable_key(name: str) -> np.int64:
    """A number of 63 bits that is the same for a name on every machine and run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.int64(int.from_bytes(digest, "big") >> 1)


def gathered(pairs: Iterable[tuple[Batch, Outputs]], inputs: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named inputs that batches have, "evaluated" and all outputs, each joined over the batches; on the CPU."""
    columns: dict[str, list[torch.Tensor]] = {}
    inputs = tuple(inputs)
    for batch, outputs in pairs:
        everything = torch.ones_like(batch["role"], dtype=torch.bool)
        found = {name: batch[name] for name in inputs if name in batch}
        for name, value in (found | {"evaluated": batch.get("evaluated", everything)} | outputs).items():
            columns.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(parts) for name, parts in columns.items()}


@dataclass(frozen=True)
class Sides:
    """Who asks and who is shown.

    Attributes:
        asks: `[N]` rows that are queries.
        shown: `[N]` rows of the gallery.
        same_row: `[Q]` for each query its own place in the gallery, or -1.
    """

    asks: torch.Tensor
    shown: torch.Tensor
    same_row: torch.Tensor


def sides(table: Mapping[str, torch.Tensor]) -> Sides:
    """Rows that are not evaluated are distractors: they ask nothing."""
    asks = table["evaluated"] & (table["role"] != ROLES.index("gallery"))
    shown = table["role"] != ROLES.index("query")
    place = torch.where(shown, shown.cumsum(0) - 1, -1)
    return Sides(asks, shown, place[asks])


def scores_by_source(
    values: Mapping[str, NDArray[np.float64]], sources: torch.Tensor, names: tuple[str, ...]
) -> dict[str, Score]:
    """Scores over all queries by metric, and "source/metric" for each source that has a query.

    Args:
        values: metric → `[Q]` values.
        sources: `[Q]` places in `names`, or -1.
        names: of the sources; the empty one has no scores of its own.
    """
    scores = {metric: bootstrap(value) for metric, value in values.items()}
    for place, name in enumerate(names):
        rows = (sources == place).numpy()
        if name and rows.any():
            scores |= {f"{name}/{metric}": bootstrap(value[rows]) for metric, value in values.items()}
    return scores
