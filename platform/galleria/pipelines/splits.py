"""Which split a sample belongs to, where nobody has said."""

import hashlib

SPLITS = ("train", "validation", "test")

ALSO = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names that data sets give to the splits."""


def split_of(name: str) -> str:
    """Train, validation or test (80/10/10), by a hash that no run or machine changes."""
    bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"
