"""Reads Stanford Online Products: `Ebay_train.txt` and `Ebay_test.txt`."""

from collections.abc import Iterator

from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree, official

MARKS = ("Ebay_train.txt", "Ebay_test.txt")


def read_sop(tree: Tree) -> Iterator[Row]:
    """Yield a row for each line: image id, class id (a product), super-class id, path."""
    for split in ("train", "test"):
        for image, product, _, path in tree.table(f"Ebay_{split}.txt", 4, skip=1):
            kind = path.split("/", 1)[0].removesuffix("_final")
            yield {
                "id": image,
                "image": tree.path(path),
                "product_id": product,
                "category": [kind],
                "split": official(split, product),
            }
