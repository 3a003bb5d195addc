"""A small data set on disk, with one row of every kind of trouble."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.demo.products import PRODUCTS
from tests.drawings import product_rows

Write = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a parquet file and returns its path."""

    def written(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "products.parquet"
        pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), path)
        return str(path)

    return written


@pytest.fixture(scope="session")
def clean_rows() -> list[dict[str, Any]]:
    """48 training, 12 validation and 12 test products in two renderings."""
    return [
        *product_rows(48),
        *product_rows(12, "validation", first=100),
        *product_rows(12, "test", first=200),
    ]


@pytest.fixture(scope="session")
def clean_data(clean_rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same on disk."""
    path = tmp_path_factory.mktemp("clean") / "products.parquet"
    pq.write_table(pa.Table.from_pylist(clean_rows, PRODUCTS), path)
    return str(path)
