"""Reads the table of Open Metric Learning: `label`, `path`, `split`, `is_query`, `is_gallery`, boxes and `category`."""

from collections.abc import Iterator
from typing import Any

from galleria.learn.task import Row
from galleria.pipelines.readers.crops import crop
from galleria.pipelines.readers.delimited import RawTable

MARKS = ("label", "path", "split", "is_query", "is_gallery")
BOX = ("x_1", "y_1", "x_2", "y_2")


def read_oml(table: RawTable, folder: str) -> Iterator[Row]:
    """Yield a row for each line. A picture that is both query and gallery has no role."""
    names = [name for name in (*MARKS, *BOX, "category") if name in table.header]
    for part in table.read([table.header.index(name) for name in names], ()):
        for cells in zip(*(column.to_pylist() for column in part.columns), strict=True):
            row = dict(zip(names, cells, strict=True))
            box = [row.get(name) for name in BOX]
            path = str(row["path"])
            is_query, is_gallery = _truth(row["is_query"]), _truth(row["is_gallery"])
            has_box = all(box)
            yield {
                "id": f"{path}#{','.join(map(str, box))}" if has_box else path,
                "image": path if "://" in path or path.startswith("/") else f"{folder}/{path}",
                "crop": crop([float(str(value)) for value in box]) if has_box else None,
                "product_id": row["label"],
                "category": [row["category"]] if row.get("category") else None,
                "role": None if is_query == is_gallery else "query" if is_query else "gallery",
                "split": row["split"],
            }


def _truth(cell: Any) -> bool:
    return str(cell).strip().lower() in ("true", "1", "1.0")
