"""Milvus Lite: a collection in a local file."""

from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient  # type: ignore[import-not-found]

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

BATCH_SIZE = 2000


class Milvus(Contestant):
    """One collection with a graph."""

    def create(self, folder: Path, vectors: Any) -> None:
        """Create a collection on disk; its graph has as many links and the same construction effort as ours."""
        folder.mkdir(parents=True, exist_ok=True)
        self.client = MilvusClient(str(folder / "milvus.db"))
        schema = self.client.create_schema()
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=512)
        schema.add_field("title", DataType.VARCHAR, max_length=512)
        schema.add_field("part", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 32, "efConstruction": 100})
        self.client.create_collection("items", schema=schema, index_params=index)
        for start in range(0, len(vectors), BATCH_SIZE):
            rows = vectors[start : start + BATCH_SIZE]
            self.client.insert("items", _rows(range(start, start + len(rows)), rows))

    def put(self, numbers: list[int], vectors: Any, title: str) -> None:
        """Upsert."""
        self.client.upsert("items", _rows(numbers, vectors, title))

    def build(self, folder: Path, vectors: Any) -> dict[str, Any]:
        """Insert, and wait until all is in its index."""
        self.create(folder, vectors)
        self.client.flush("items")
        self.client.load_collection("items")
        return {}

    def open(self, folder: Path) -> None:
        """Open the collection."""
        self.client = MilvusClient(str(folder / "milvus.db"))
        self.client.load_collection("items")

    def settings(self) -> list[Any]:
        """Return values of ef."""
        return [16, 24, 32, 64, 128, 256, 512]

    def use(self, setting: Any) -> None:
        """Use it in every search."""
        self.effort = setting

    def search(self, query: Any, selectivity: int) -> list[int]:
        """Search, with an expression for a filter."""
        filters = {} if selectivity == PARTS else {"filter": f"part < {selectivity}"}
        parameters = {"metric_type": "IP", "params": {"ef": self.effort}}
        hits = self.client.search("items", data=[query], limit=K, search_params=parameters, **filters)
        return [int(hit["id"][1:]) for hit in hits[0]]

    def close(self) -> None:
        """Stop its server."""
        if hasattr(self, "client"):
            self.client.close()


def _rows(numbers: Any, vectors: Any, title: str = "") -> list[dict[str, Any]]:
    return [
        {"id": f"i{number}", "title": title, "part": part_of(number), "vector": vector}
        for number, vector in zip(numbers, vectors, strict=True)
    ]


if __name__ == "__main__":
    run(Milvus)
