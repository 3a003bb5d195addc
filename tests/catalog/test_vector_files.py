"""Vectors are written to files that pyarrow and NumPy read, without galleria."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from galleria.catalog.items import deletions, table_schema
from galleria.catalog.vector_files import write_vectors
from galleria.errors import ConfigurationError
from tests.catalog.tables import HASH, create_table, rows, unit

IDS = ("00042", "42", "schöne „Hose“", "d")


def test_parquet_has_newest_vectors_and_fields(tmp_path: Path) -> None:
    table = create_table(tmp_path / "table.lance", rows(*IDS, category=["Shoes", "Boots"]), rows("42", seed=9))
    table = table.append(deletions(["d"], table_schema(3, HASH)))

    write_vectors(table, tmp_path / "out" / "vectors.parquet")

    written = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "vectors.parquet").to_pylist()}
    assert sorted(written) == sorted(IDS[:3])
    expected = {"00042": unit(4)[0], "42": unit(1, seed=9)[0], IDS[2]: unit(4)[2]}
    for name, vector in expected.items():
        np.testing.assert_allclose(written[name]["embedding"], vector, atol=1e-6)
    assert written["00042"]["category"] == ["Shoes", "Boots"]
    assert "image" not in written["42"]


def test_npy_has_ids_next_to_it(tmp_path: Path) -> None:
    table = create_table(tmp_path / "table.lance", rows(*IDS))

    write_vectors(table, tmp_path / "vectors.npy")

    ids, vectors = np.load(tmp_path / "vectors.ids.npy"), np.load(tmp_path / "vectors.npy")
    assert vectors.dtype == np.float32 and vectors.shape == (4, 3)
    for name, vector in zip(IDS, unit(4), strict=True):
        np.testing.assert_allclose(vectors[ids.tolist().index(name)], vector, atol=1e-6)


def test_other_kind_of_file_is_rejected(tmp_path: Path) -> None:
    table = create_table(tmp_path / "table.lance", rows(*IDS))

    with pytest.raises(ConfigurationError, match=r"vectors\.csv is not a valid file for vectors: name it .parquet or"):
        write_vectors(table, tmp_path / "vectors.csv")
