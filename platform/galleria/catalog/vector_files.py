"""Vectors of a table in files that other tools read."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galleria.catalog.items import FIELDS
from galleria.catalog.table import ProductTable
from galleria.durable import write_atomically
from galleria.errors import ConfigurationError


def check_vector_file(path: Path) -> None:
    """Check the name of a file for vectors.

    Raises:
        ConfigurationError: it is neither .parquet nor .npy.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise ConfigurationError(f"{path} is not a valid file for vectors: name it .parquet or .npy")


def write_vectors(table: ProductTable, path: Path) -> None:
    """Write the vectors of all items to one file; an existing one is replaced. All vectors are in memory meanwhile.

    `vectors.parquet` has columns `id`, `embedding` (a list of D float32) and the items' fields, without pictures.
    `vectors.npy` is float32 `[N, D]`, for `numpy.load`; the ids `[N]` are in `vectors.ids.npy` next to it.

    Raises:
        ConfigurationError: as `check_vector_file`.
    """
    check_vector_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_batches(table.items(("id", "embedding", *FIELDS))), file)
        write_atomically(path, file.getvalue())
        return
    ids, vectors = table.vectors()
    for name, values in ((path.with_suffix(".ids.npy"), ids), (path, vectors)):
        file = io.BytesIO()
        np.save(file, values, allow_pickle=False)
        write_atomically(name, file.getvalue())
