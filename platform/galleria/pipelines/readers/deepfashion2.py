"""Reads DeepFashion2: `train/annos/*.json` with the boxes of garments in `train/image`, and `validation` alike."""

from collections.abc import Iterator

from galleria.learn.task import Row
from galleria.pipelines.readers.crops import crop
from galleria.pipelines.readers.tree import Tree

SPLITS = ("train", "validation", "test")


def read_deepfashion2(tree: Tree) -> Iterator[Row]:
    """Yield a row for each garment: pictures of users are queries, those of shops the gallery.

    Garments of one pair and style are one product; style 0 has no partner in other pictures.
    """
    for split in SPLITS:
        for name in tree.below(f"{split}/annos"):
            if not name.endswith(".json"):
                continue
            stem = name.rsplit("/", 1)[1].removesuffix(".json")
            picture = tree.json(name)
            for item in sorted(key for key in picture if key.startswith("item")):
                garment = picture[item]
                product = f"{picture['pair_id']}/{garment['style']}"
                yield {
                    "id": f"{split}/{stem}/{item}",
                    "image": tree.path(f"{split}/image/{stem}.jpg"),
                    "crop": crop([float(value) for value in garment["bounding_box"]]),
                    "product_id": product if garment["style"] else f"{product}/{split}/{stem}/{item}",
                    "category": [garment["category_name"]],
                    "source": picture["source"],
                    "role": "query" if picture["source"] == "user" else "gallery",
                    "split": split,
                }
