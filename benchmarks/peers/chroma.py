"""Chroma: a persistent collection with its HNSW graph."""

from pathlib import Path
from typing import Any

import chromadb  # type: ignore[import-not-found]
from chromadb.api.shared_system_client import SharedSystemClient  # type: ignore[import-not-found]

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

BATCH_SIZE = 5000
"""About the maximum that Chroma accepts in one call."""


class Chroma(Contestant):
    """One collection; its graph has as many links and the same construction effort as ours."""

    def create(self, folder: Path, vectors: Any) -> None:
        """Create a collection on disk."""
        self.client = chromadb.PersistentClient(str(folder))
        graph = {"space": "ip", "max_neighbors": 32, "ef_construction": 100, "ef_search": 64}
        self.items = self.client.create_collection("items", configuration={"hnsw": graph})
        for start in range(0, len(vectors), BATCH_SIZE):
            rows = vectors[start : start + BATCH_SIZE]
            self.put(list(range(start, start + len(rows))), rows, "")

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Upsert."""
        names = [f"i{number}" for number in numbers]
        fields = [{"title": title, "part": part_of(number)} for number in numbers]
        self.items.upsert(ids=names, embeddings=vectors, metadatas=fields)

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Create the collection: its graph grows with the items."""
        self.create(folder, vectors)
        return {}

    def open(self, folder: Path) -> None:
        """Open the collection."""
        self.folder = folder
        self.client = chromadb.PersistentClient(str(folder))
        self.items = self.client.get_collection("items")

    def settings(self) -> list[Any]:
        """Return values of ef_search."""
        return [16, 24, 32, 64, 128, 256, 512]

    def use(self, setting: Any) -> None:
        """Change the collection's configuration, and open it again: an open one does not reread it."""
        self.items.modify(configuration={"hnsw": {"ef_search": setting}})
        self.client._system.stop()
        SharedSystemClient.clear_system_cache()
        self.open(self.folder)

    def search(self, query: Any, selectivity: int) -> list[int]:
        """Search, with `where` for a filter."""
        where = None if selectivity == PARTS else {"part": {"$lt": selectivity}}
        results = self.items.query(query_embeddings=query[None], n_results=K, where=where, include=[])
        return [int(name[1:]) for name in results["ids"][0]]


if __name__ == "__main__":
    run(Chroma)
