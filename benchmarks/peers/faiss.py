"""Hand-tuned FAISS: a graph, lists and a scan, each swept; the fastest at the recall is used."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.peers.contestant import PARTS, SELECTIVITIES, Contestant, K, part_of, run

KINDS = ("HNSW32", "IVF", "Flat")


class Faiss(Contestant):
    """Three index files, and precomputed selectors for filters."""

    writes = False

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Build each kind of index with common settings."""
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
        """Open all three, and prepare the selectors."""
        self.indexes = {kind: faiss.read_index(str(folder / kind)) for kind in KINDS}
        count = self.indexes["Flat"].ntotal
        parts = np.array([part_of(number) for number in range(count)])
        self.masks = {part: np.packbits(parts < part, bitorder="little") for part in SELECTIVITIES}
        self.selectors = {part: faiss.IDSelectorBitmap(mask) for part, mask in self.masks.items()}

    def settings(self) -> list[Any]:
        """Return efSearch of the graph and nprobe of the lists; the scan has no setting."""
        graphs = [("HNSW32", effort) for effort in (10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256, 512)]
        return [*graphs, *(("IVF", effort) for effort in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)), ("Flat", 0)]

    def use(self, setting: Any) -> None:
        """Use one of `settings`."""
        self.kind, self.effort = setting

    def search(self, query: Any, selectivity: int) -> list[int]:
        """Search, with a selector for a filter and the same setting."""
        selector = None if selectivity == PARTS else self.selectors[selectivity]
        if self.kind == "HNSW32":
            parameters = faiss.SearchParametersHNSW(efSearch=self.effort, sel=selector)
        elif self.kind == "IVF":
            parameters = faiss.SearchParametersIVF(nprobe=self.effort, sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        _, numbers = self.indexes[self.kind].search(query[None], K, params=parameters)
        return [number for number in numbers[0].tolist() if number >= 0]


if __name__ == "__main__":
    run(Faiss)
