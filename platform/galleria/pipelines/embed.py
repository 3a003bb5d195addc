"""Embeds a catalogue: streams its pictures through a bundle into the product table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from galleria.catalog.table import ProductTable, table_schema
from galleria.errors import ConfigurationError, EmptyDatasetError
from galleria.learn.bundle import Bundle
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.predict import predict
from galleria.pipelines.rejects import FILE, Reject, write_rejects


def embed(bundle: Bundle, source: Source, out: Path) -> tuple[ProductTable, list[Reject]]:
    """Write every picture of a catalogue that is not a query, with its vector, as the next version of a table.

    Rows that cannot be used are left out and listed in `rejects.jsonl` beside the table.

    Raises:
        ConfigurationError: the bundle makes no vectors.
        DataError: the data set cannot be used.
    """
    data = ProductDataset(source, bundle.family)
    rejects = list(data.rejects)
    with ray_cluster():
        batches = _batches(bundle, data, rejects)
        first = next(batches, None)
        if first is None:
            raise EmptyDatasetError(f"no picture of {source.path} could be embedded: see the rows' 'role' and {FILE}")
        table = ProductTable.write(out, _chain(first, batches), first.schema)
    write_rejects(out.parent, rejects)
    return table, rejects


def _batches(bundle: Bundle, data: ProductDataset, rejects: list[Reject]) -> Iterator[pa.RecordBatch]:
    keep = tuple(name for name in data.columns if name in table_schema(1, "").names)
    for batch in predict(bundle, data.gallery(), rejects, keep, reads=("image",)):
        if "out/embedding" not in batch:
            raise ConfigurationError(f"the bundle at {bundle.path} ({bundle.family.name}) makes no vectors to search")
        yield _records(bundle, batch)


def _records(bundle: Bundle, batch: dict[str, Any]) -> pa.RecordBatch:
    vectors = np.ascontiguousarray(batch["out/embedding"], np.float32)
    schema = table_schema(vectors.shape[1], bundle.hash)
    columns = []
    for field in schema:
        if field.name == "embedding":
            values: Any = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        elif field.name in batch:
            values = pa.array(list(batch[field.name]), field.type)
        else:
            values = pa.nulls(len(vectors), field.type)
        columns.append(values)
    return pa.record_batch(columns, schema=schema)


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
