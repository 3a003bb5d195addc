"""The platform's own catalogue as a contestant of `benchmarks.catalog`."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contestant import PARTS, SELECTIVITIES, Contestant, K, part_of, run

BUNDLE = "b" * 64


class Own(Contestant):
    """Upserts go through `CatalogWriter`; searches through the index that `write_build` chooses, untuned."""

    def __init__(self) -> None:
        """Import libraries first: their memory is not the index's."""
        import galleria.catalog.live
        import galleria.catalog.writer  # noqa: F401

    def create(self, folder: Path, vectors: Any) -> None:
        """Create a product table, with one writer for all threads."""
        from galleria.catalog.items import table_schema, upserts
        from galleria.catalog.table import ProductTable
        from galleria.catalog.writer import CatalogWriter

        table = ProductTable.create(folder, table_schema(vectors.shape[1], BUNDLE))
        table.append(upserts([_item(number) for number in range(len(vectors))], vectors, BUNDLE))
        self.writer = CatalogWriter(folder)

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Upsert; return once the items would survive a loss of power."""
        self.writer.put([_item(number, title) for number in numbers], vectors).result()

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Build one shard, of the kind that `Plan` chooses."""
        import pyarrow as pa

        from galleria.catalog.items import encode_attributes
        from galleria.index.base import Vectors, write_build
        from galleria.index.columns import FILTER_FIELDS, filter_columns
        from galleria.index.kinds import Plan

        items = [_item(number) for number in range(len(vectors))]
        empty = dict.fromkeys(FILTER_FIELDS)
        rows = [empty | item | {"attributes": encode_attributes(item["attributes"])} for item in items]
        names = ("id", "title", "product_id", "source", "attributes")
        schema = pa.schema([*((name, pa.string()) for name in names), ("category", pa.list_(pa.string()))])
        keys = np.arange(len(vectors), dtype=np.uint64)
        shard = Vectors(keys, keys, vectors, filter_columns(pa.Table.from_pylist(rows, schema)))
        spec = write_build(folder, [shard], Plan(), BUNDLE, 1).shards[0].spec
        return {"chosen": f"{spec.kind} {spec.effort}", "measured_recall": spec.recall}

    def open(self, folder: Path) -> None:
        """Open the shard: verified and memory-mapped."""
        from galleria.index.base import open_build
        from galleria.index.filters import read_filter
        from galleria.index.shard import Shard

        self.shard = Shard(open_build(folder, BUNDLE).bases[0])
        self.allowed = {part: read_filter({"part": {"$lt": part}}) for part in SELECTIVITIES}

    def settings(self) -> list[Any]:
        """Return what the build chose."""
        return [self.shard.base.spec.effort]

    def use(self, setting: Any) -> None:
        """Do nothing: there is one setting."""

    def search(self, query: Any, selectivity: int) -> list[int]:
        """Search; an item's key is its number here."""
        allowed = None if selectivity == PARTS else self.allowed[selectivity]
        return [hit.key for hit in self.shard.search(query[None], K, allowed)[0]]

    def close(self) -> None:
        """Stop the writer."""
        if hasattr(self, "writer"):
            self.writer.close()


def _item(number: int, title: str = "") -> dict[str, Any]:
    return {"id": f"i{number}", "title": title, "attributes": {"part": part_of(number)}}


if __name__ == "__main__":
    run(Own)
