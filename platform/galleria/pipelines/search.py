"""One search in this process: a query's vector, its nearest vectors, their items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galleria.catalog.table import ProductTable
from galleria.errors import ConfigurationError
from galleria.index.shard import Shard
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from galleria.learn.task import Row


def search(query: Row, k: int, bundle: Path, table: Path, index: Path) -> list[Mapping[str, Any]]:
    """The `k` items nearest to a picture (`{"image": bytes}`) or words (`{"text": str}`), each with its score.

    Raises:
        GalleriaError: a part is missing or damaged, they do not belong together, or the query cannot be used.
    """
    opened = Bundle.open(bundle)
    items = ProductTable(table)
    shard = Shard(index, opened.hash, items.version)
    outputs = opened.task().predict(stack([opened.family.example(query, opened.context, None)]))
    if not outputs:
        raise ConfigurationError(f"the bundle at {bundle} does not read {', '.join(query)}: search with a picture")
    answer = opened.family.present({name: value[0].numpy() for name, value in outputs.items()}, opened.context.labels)
    scores, places = shard.search(np.asarray([answer["embedding"]], np.float32), k)
    rows = items.rows(places[0].tolist())
    return [{**row, "score": float(score)} for row, score in zip(rows, scores[0], strict=True)]
