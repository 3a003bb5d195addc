"""FAISS by hand: a graph, lists and a scan, each swept; the fastest at the recall is taken."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

KINDS = ("HNSW32", "IVF", "Flat")


class Faiss(Contestant):
    """Three index files, and selectors for filters that are worked out before."""

    writes = False

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Each kind as a knowing hand would set it."""
        folder.mkdir(parents=True)
        count, dimension = vectors.shape
        graph = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        lists = faiss.index_factory(dimension, f"IVF{max(1, int(2 * count**0.5))},Flat", faiss.METRIC_INNER_PRODUCT)
        lists.train(vectors)
        for kind, index in zip(KINDS, (graph, lists, faiss.IndexFlatIP(dimension)), strict=True):
            index.add(vectors)
            faiss.write_index(index, str(folder / kind))
        return {"indexes": len(KINDS)}

    def open(self, folder: Path) -> None:
        """All three."""
        self.indexes = {kind: faiss.read_index(str(folder / kind)) for kind in KINDS}
        count = self.indexes["Flat"].ntotal
        parts = np.array([part_of(number) for number in range(count)])
        self.masks = {share: np.packbits(parts < share, bitorder="little") for share in (2, 20, 50)}
        self.selectors = {share: faiss.IDSelectorBitmap(mask) for share, mask in self.masks.items()}

    def settings(self) -> list[Any]:
        """The scan has none."""
        graphs = [("HNSW32", breadth) for breadth in (10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256, 512)]
        return [*graphs, *(("IVF", lists) for lists in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)), ("Flat", 0)]

    def use(self, setting: Any) -> None:
        """One of `settings`."""
        self.kind, self.effort = setting

    def find(self, query: Any, share: int) -> list[int]:
        """With a selector for a filter, and the same setting."""
        selector = None if share == PARTS else self.selectors[share]
        if self.kind == "HNSW32":
            how = faiss.SearchParametersHNSW(efSearch=self.effort, sel=selector)
        elif self.kind == "IVF":
            how = faiss.SearchParametersIVF(nprobe=self.effort, sel=selector)
        else:
            how = faiss.SearchParameters(sel=selector)
        _, places = self.indexes[self.kind].search(query[None], K, params=how)
        return [place for place in places[0].tolist() if place >= 0]


if __name__ == "__main__":
    run(Faiss)
