"""Milvus Lite: a collection in a local file."""

from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient  # type: ignore[import-not-found]

from benchmarks.peers.contestant import PARTS, Contestant, K, part_of, run

AT_ONCE = 2000


class Milvus(Contestant):
    """One collection with a graph."""

    def create(self, folder: Path, vectors: Any) -> None:
        """A collection on the disk with a graph of our links and breadth."""
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
        for start in range(0, len(vectors), AT_ONCE):
            rows = vectors[start : start + AT_ONCE]
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
        """The collection."""
        self.client = MilvusClient(str(folder / "milvus.db"))
        self.client.load_collection("items")

    def settings(self) -> list[Any]:
        """Breadth of the search."""
        return [16, 24, 32, 64, 128, 256, 512]

    def use(self, setting: Any) -> None:
        """It goes with every search."""
        self.effort = setting

    def find(self, query: Any, share: int) -> list[int]:
        """With an expression for a filter."""
        wanted = {} if share == PARTS else {"filter": f"part < {share}"}
        how = {"metric_type": "IP", "params": {"ef": self.effort}}
        found = self.client.search("items", data=[query], limit=K, search_params=how, **wanted)
        return [int(hit["id"][1:]) for hit in found[0]]

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
