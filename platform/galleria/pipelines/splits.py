"""Names of the splits, and the split of a sample that has none."""

import hashlib

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
