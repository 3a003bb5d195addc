"""One search in this process: a query's vector, its nearest vectors, their items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galleria.catalog.table import ProductTable
from galleria.index.shard import Shard
from galleria.learn.bundle import Bundle
from galleria.learn.task import Row
from galleria.pipelines.answer import answer


def search(query: Row, k: int, bundle: Path, table: Path, index: Path) -> list[Mapping[str, Any]]:
    """The `k` items nearest to a picture (`{"image": bytes}`) or words (`{"text": str}`), each with its score.

    Raises:
        GalleriaError: a part is missing or damaged, they do not belong together, or the query cannot be used.
    """
    opened = Bundle.open(bundle)
    items = ProductTable(table)
    shard = Shard(index, opened.hash, items.version)
    vector = np.asarray(answer(opened, query)["embedding"], np.float32)
    cosines, places = shard.search(vector[None], k)
    rows = items.rows(places[0].tolist())
    length = float(np.linalg.norm(vector))  # 1, but for a query that weighs the levels of a tree
    return [{**row, "score": length * float(cosine)} for row, cosine in zip(rows, cosines[0], strict=True)]
