"""Reads CIFAR-100's binary version: `train.bin`, `test.bin` and the names of both levels."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from galleria.errors import DataError
from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree, official

MARKS = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
SIDE = 32
RECORD_BYTES = 2 + 3 * SIDE * SIDE


def read_cifar100(tree: Tree) -> Iterator[Row]:
    """Yield a row for each record: coarse label, fine label, and 32 × 32 pixels as planes of red, green and blue."""
    coarse, fine = (tree.read(f"{level}_label_names.txt").decode().split() for level in ("coarse", "fine"))
    for split in ("train", "test"):
        content = tree.read(f"{split}.bin")
        if len(content) % RECORD_BYTES:
            raise DataError(f"{tree.path(split)}.bin is cut short: download it again")
        for number, record in enumerate(np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)):
            pixels = np.ascontiguousarray(record[2:].reshape(3, SIDE, SIDE).transpose(1, 2, 0))
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "PNG")
            name = f"{split}/{number:05}"
            yield {
                "id": name,
                "image": encoded.getvalue(),
                "product_id": name,
                "category": [coarse[record[0]], fine[record[1]]],
                "split": official(split, name),
            }
