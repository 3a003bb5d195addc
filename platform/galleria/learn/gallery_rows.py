"""Columns that ranking needs of a row. Imports no torch: a gateway starts without it."""

import hashlib
from typing import Any

import numpy as np

from galleria.errors import DataError
from galleria.learn.family import Labels, index_by_name
from galleria.learn.types import Row

ROLES = ("both", "query", "gallery")


def gallery_columns(row: Row, labels: Labels) -> dict[str, Any]:
    """Return the columns that ranking needs of a row with a product.

    `product` a 63-bit key that is equal for equal products; `source` an index into `labels["source"]` or -1;
    `role` an index into `ROLES`.

    Raises:
        DataError: the role is unknown.
    """
    role = row.get("role") or "both"
    if role not in ROLES:
        raise DataError(f"role {role!r} is unknown: use 'query', 'gallery', or leave it empty for both")
    return {
        "product": stable_key(row["product_id"]),
        "source": np.int64(index_by_name(labels["source"]).get(row.get("source") or "", -1)),
        "role": np.int64(ROLES.index(role)),
    }


def stable_key(name: str) -> np.int64:
    """Hash a name to 63 bits, the same on every machine and in every run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.int64(int.from_bytes(digest, "big") >> 1)
