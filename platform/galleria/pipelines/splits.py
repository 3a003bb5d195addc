"""Names of the splits, and the split of a sample that has none."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SPLITS = ("train", "validation", "test")

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Name of a split in a data set, in lower case → its name here."""


def split_of(name: str) -> str:
    """Return train, validation or test (80/10/10) by a hash of the name, the same on every machine."""
    bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def split_of_row(row: Mapping[str, Any]) -> Any:
    """Return the split of a data set's row: "train" where it names none."""
    return row.get("split") or "train"


def fill_splits(table: pa.Table) -> pa.Table:
    """Return a table whose rows have the split of `split_of_row`."""
    if "split" not in table.column_names:
        return table.append_column("split", pa.repeat(pa.scalar("train"), len(table)))
    split = pc.fill_null(table["split"], "")
    split = pc.if_else(pc.equal(split, ""), "train", split)
    return table.set_column(table.column_names.index("split"), "split", split)
