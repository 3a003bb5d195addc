"""Items whose labels are likely wrong, by what a model embeds near them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galleria.catalog.table import ProductTable, vector_column
from galleria.pipelines.data_check.findings import MAX_EXAMPLES, Finding

NEIGHBORS = 10
MIN_AGREEMENT = 0.6
"""Fraction of an item's neighbors that have one other category, while none has the item's own."""


def likely_wrong_labels(path: Path) -> Iterator[Finding]:
    """Yield a finding about the items of a product table whose nearest neighbors all have other categories.

    Items of the same product are no evidence, since they share its label. Every pair is compared.

    Raises:
        DataError: there is no table.
    """
    table = pa.Table.from_batches(ProductTable(path).items(("id", "category", "product_id", "embedding")))
    table = table.filter(pc.is_valid(table["category"]))
    if len(table) <= NEIGHBORS:
        return
    labels = [" / ".join(category) for category in table["category"].to_pylist()]
    products = [
        product or name
        for product, name in zip(*(table[name].to_pylist() for name in ("product_id", "id")), strict=True)
    ]
    vectors = np.ascontiguousarray(vector_column(table))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    per_product = max(Counter(products).values())
    _, nearest = index.search(vectors, min(len(table), NEIGHBORS + per_product))
    wrong = []
    for position, row in enumerate(nearest.tolist()):
        others = [labels[other] for other in row if products[other] != products[position]][:NEIGHBORS]
        label, votes = Counter(others).most_common(1)[0] if others else ("", 0)
        if labels[position] not in others and votes >= MIN_AGREEMENT * NEIGHBORS:
            wrong.append((votes, position, label))
    if wrong:
        wrong.sort(reverse=True)
        names = table["id"].to_pylist()
        _, position, label = wrong[0]
        yield Finding(
            "likely_wrong_category",
            "warning",
            len(wrong),
            f"items whose neighbors have other categories ({len(wrong):,}): {names[position]!r} is in "
            f"{labels[position]!r}, its neighbors are in {label!r}",
            "look at them, and correct the categories",
            [[names[position]] for _, position, _ in wrong[:MAX_EXAMPLES]],
        )
