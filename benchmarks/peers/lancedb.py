"""LanceDB: a table with a scalar index on the id; searched by lists, or by a graph with refinement."""

from pathlib import Path
from typing import Any

import lancedb  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

KINDS = ("flat", "graph")


class LanceDB(Contestant):
    """Two tables, one for each kind of index; the faster at the recall is used."""

    def create(self, folder: Path, vectors: Any) -> None:
        """Create a table; an id index makes its upserts faster."""
        self.table = lancedb.connect(folder).create_table("items", _rows(range(len(vectors)), vectors))
        self.table.create_scalar_index("id")

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Merge by id."""
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(_rows(numbers, vectors, title))

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Create one table for each kind, both with an index on the part."""
        store = lancedb.connect(folder)
        for kind in KINDS:
            table = store.create_table(kind, _rows(range(len(vectors)), vectors))
            lists = max(1, round(len(vectors) ** 0.5)) if kind == "flat" else 1
            index = "IVF_FLAT" if kind == "flat" else "IVF_HNSW_SQ"
            table.create_index(metric="dot", vector_column_name="vector", index_type=index, num_partitions=lists)
            table.create_scalar_index("part", index_type="BTREE")
        return {"indexes": len(KINDS)}

    def open(self, folder: Path) -> None:
        """Open both tables."""
        store = lancedb.connect(folder)
        self.tables = {kind: store.open_table(kind) for kind in KINDS}
        self.lists = max(1, round(self.tables["flat"].count_rows() ** 0.5))

    def settings(self) -> list[Any]:
        """Return numbers of lists to probe, and efforts of the graph, which rescores three times as many."""
        scans = [("flat", lists) for lists in (4, 8, 16, 32, 64, 128, 256) if lists <= self.lists]
        return [*scans, *(("graph", effort) for effort in (32, 64, 128, 256, 512))]

    def use(self, setting: Any) -> None:
        """Use one of `settings`."""
        self.kind, self.effort = setting

    def search(self, query: Any, selectivity: int) -> list[int]:
        """Search, with the filter applied before."""
        search = self.tables[self.kind].search(query, vector_column_name="vector").distance_type("dot").limit(K)
        search = search.nprobes(self.effort) if self.kind == "flat" else search.ef(self.effort).refine_factor(3)
        if selectivity < PARTS:
            search = search.where(f"part < {selectivity}", prefilter=True)
        hits = search.select(["id", "_distance"]).to_arrow()
        return [int(name[1:]) for name in hits["id"].to_pylist()]


def _rows(numbers: Any, vectors: Any, title: str = "") -> Any:
    names = [f"i{number}" for number in numbers]
    dense = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(vectors), pa.float32()), vectors.shape[1])
    parts = pa.array([part_of(number) for number in numbers], pa.int32())
    return pa.table({"id": names, "title": [title] * len(names), "part": parts, "vector": dense})


if __name__ == "__main__":
    run(LanceDB)
