"""Reads Open Images' boxes: `…-annotations-bbox.csv`, with the names of `class-descriptions-boxable.csv` next to it."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from galleria.learn.task import Row
from galleria.pipelines.readers.crops import crop
from galleria.pipelines.readers.delimited import RawTable
from galleria.pipelines.readers.tree import Tree

MARKS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv", "class-descriptions.csv")


def read_open_images(table: RawTable, tree: Tree, images: str, split: str | None) -> Iterator[Row]:
    """Yield a row for each box that is not of a group. Its sides are parts of the picture's, from 0 to 1.

    Args:
        table: of boxes.
        tree: its folder.
        images: folder of the pictures, `ImageID.jpg`.
        split: of all rows, or None.
    """
    names = _class_names(tree)
    columns = [name for name in (*MARKS, "IsGroupOf") if name in table.header]
    number = 0
    for part in table.read([table.header.index(name) for name in columns], ()):
        for cells in zip(*(column.to_pylist() for column in part.columns), strict=True):
            box: dict[str, Any] = dict(zip(columns, cells, strict=True))
            number += 1
            if box.get("IsGroupOf") == "1":
                continue
            identifier = f"{box['ImageID']}/{number}"
            yield {
                "id": identifier,
                "image": f"{images}/{box['ImageID']}.jpg",
                "crop": crop([float(box[side]) for side in ("XMin", "YMin", "XMax", "YMax")], is_relative=True),
                "product_id": identifier,
                "category": [names.get(box["LabelName"], box["LabelName"])],
                "split": split,
            }


def _class_names(tree: Tree) -> dict[str, str]:
    for name in CLASSES:
        if tree.has(name):
            return {row[0]: row[1] for row in csv.reader(io.StringIO(tree.read(name).decode())) if len(row) > 1}
    return {}
