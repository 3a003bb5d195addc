"""A small data set on disk, with one row of every kind of trouble."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.demo.products import PRODUCTS

Write = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a parquet file and returns its path."""

    def written(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "products.parquet"
        pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), path)
        return str(path)

    return written
