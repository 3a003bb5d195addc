"""Reads DeepFashion's In-Shop Clothes Retrieval: `list_eval_partition.txt`."""

from collections.abc import Iterator

from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree, official

PARTITION = "list_eval_partition.txt"
PARTITIONS = (PARTITION, f"Eval/{PARTITION}")


def read_in_shop(tree: Tree) -> Iterator[Row]:
    """Yield a row for each line: path, item id, and train, query or gallery; the latter two are the test split."""
    partition = next(name for name in PARTITIONS if tree.has(name))
    images = "" if tree.has("img") or not tree.has("Img") else "Img/"
    for path, product, status in tree.table(partition, 3, skip=2):
        split = "train" if status == "train" else "test"
        yield {
            "id": path,
            "image": tree.path(f"{images}{path}"),
            "product_id": product,
            "category": path.split("/")[1:-2],
            "role": None if split == "train" else status,
            "split": official(split, product),
        }
