"""Reads CUB-200-2011: `images.txt`, `image_class_labels.txt`, `classes.txt` and `train_test_split.txt`."""

from collections.abc import Iterator

from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree, official

MARKS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")


def read_cub(tree: Tree) -> Iterator[Row]:
    """Yield a row for each picture; its species is both its product and its category."""
    names = dict(tree.table("classes.txt", 2))
    labels = dict(tree.table("image_class_labels.txt", 2))
    is_training = dict(tree.table("train_test_split.txt", 2))
    for number, path in tree.table("images.txt", 2):
        name = names[labels[number]]
        yield {
            "id": number,
            "image": tree.path(f"images/{path}"),
            "product_id": name,
            "category": [name.partition(".")[2].replace("_", " ") or name],
            "split": official("train" if is_training[number] == "1" else "test", number),
        }
