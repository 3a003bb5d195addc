"""Searches once in this process: embeds the query, finds the nearest vectors, and reads their items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galleria.catalog.live import LiveCatalog
from galleria.index.filters import Filter
from galleria.learn.bundle import Bundle
from galleria.learn.task import Row
from galleria.pipelines.predict_one import predict_one


def search(
    query: Row, k: int, bundle: Path, table: Path, index: Path, allowed: Filter | None = None
) -> list[Mapping[str, Any]]:
    """Return the `k` items nearest to a picture (`{"image": bytes}`) or words (`{"text": str}`), each with its score.

    Raises:
        GalleriaError: a part is missing or damaged, they do not belong together, or the query cannot be used.
    """
    opened = Bundle.open(bundle)
    catalog = LiveCatalog(table, index, opened.hash)
    vector = np.asarray(predict_one(opened, query)["embedding"], np.float32)
    hits = catalog.search(vector[None], k, allowed)[0]
    rows = catalog.fetch([hit.key for hit in hits])
    return [{**row, "score": hit.score} for row, hit in zip(rows, hits, strict=True)]
