"""Chroma: a persistent collection with its HNSW graph."""

from pathlib import Path
from typing import Any

import chromadb  # type: ignore[import-not-found]
from chromadb.api.shared_system_client import SharedSystemClient  # type: ignore[import-not-found]

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

AT_ONCE = 5000
"""Most items that Chroma takes in one call, about."""


class Chroma(Contestant):
    """One collection; the graph's links and breadth as ours."""

    def create(self, folder: Path, vectors: Any) -> None:
        """A collection on the disk."""
        self.client = chromadb.PersistentClient(str(folder))
        graph = {"space": "ip", "max_neighbors": 32, "ef_construction": 100, "ef_search": 64}
        self.items = self.client.create_collection("items", configuration={"hnsw": graph})
        for start in range(0, len(vectors), AT_ONCE):
            rows = vectors[start : start + AT_ONCE]
            self.put(list(range(start, start + len(rows))), rows, "")

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Upsert."""
        names = [f"i{number}" for number in numbers]
        fields = [{"title": title, "part": part_of(number)} for number in numbers]
        self.items.upsert(ids=names, embeddings=vectors, metadatas=fields)

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """The graph grows with the items."""
        self.create(folder, vectors)
        return {}

    def open(self, folder: Path) -> None:
        """The collection."""
        self.folder = folder
        self.client = chromadb.PersistentClient(str(folder))
        self.items = self.client.get_collection("items")

    def settings(self) -> list[Any]:
        """Breadth of the search."""
        return [16, 24, 32, 64, 128, 256, 512]

    def use(self, setting: Any) -> None:
        """A collection has its breadth in its configuration, which an open one does not read again."""
        self.items.modify(configuration={"hnsw": {"ef_search": setting}})
        self.client._system.stop()
        SharedSystemClient.clear_system_cache()
        self.open(self.folder)

    def find(self, query: Any, share: int) -> list[int]:
        """With `where` for a filter."""
        where = None if share == PARTS else {"part": {"$lt": share}}
        found = self.items.query(query_embeddings=query[None], n_results=K, where=where, include=[])
        return [int(name[1:]) for name in found["ids"][0]]


if __name__ == "__main__":
    run(Chroma)
