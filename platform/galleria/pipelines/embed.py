"""Embeds a catalogue: streams its pictures through a bundle into the product table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from galleria.catalog.attribute_names import AttributeNames, check_count, names_of
from galleria.catalog.items import INPUT_FIELDS, content_hash, encode_attributes, item_key, table_schema, upserts
from galleria.catalog.table import ProductTable
from galleria.errors import ConfigurationError, DataError, EmptyDatasetError
from galleria.learn.bundle import Bundle
from galleria.media.limits import LIMITS
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.columns import ATTRIBUTE, attributes_of
from galleria.pipelines.datasets import ProductDataset, Source
from galleria.pipelines.gpus import Gpus
from galleria.pipelines.predict import predict
from galleria.pipelines.rejects import REJECTS_FILE, Reject, write_rejects

ROWS_PER_COMMIT = 1024
"""A job that is killed loses a few times as many, which are embedded again."""


def embed(
    bundle: Bundle,
    source: Source,
    out: Path,
    *,
    gpus: Gpus = "auto",
    log: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> tuple[ProductTable, list[Reject]]:
    """Write every picture of a catalogue that is not a query to a table, with its vector.

    An existing table is continued: only rows that are new or changed are embedded, so a job that was killed can be
    started again. Rows that cannot be used are left out and listed in `rejects.jsonl` next to the table.

    Args:
        bundle: model that embeds.
        source: the catalogue.
        out: the table.
        gpus: the most that are used, or "auto": all that the cluster has or can start.
        log: is called with a line about the resources that are used.
        progress: is called with the number of rows that were embedded, and of those that may have to be.

    Raises:
        ConfigurationError: the bundle computes no vectors, the table holds those of another bundle, or the cluster
            cannot have as many GPUs.
        DataError: the data set cannot be used.
    """
    data = ProductDataset(source, bundle.family)
    rejects = list(data.rejects)
    table = _existing(out, bundle)
    names = AttributeNames(LIMITS.catalog_attributes)
    if table is not None:
        names.count(table, table.key_map())
    total, done = sum(data.counts.values()), 0
    with ray_cluster():
        for rows, vectors in _batched(_embedded(bundle, data, table, rejects, gpus, log)):
            if table is None:
                table = ProductTable.create(out, table_schema(vectors.shape[1], bundle.hash))
            good = [index for index, row in enumerate(rows) if _has_space(row, names, rejects)]
            if good:
                table = table.append(upserts([rows[index] for index in good], vectors[good], bundle.hash))
            done += len(rows)
            progress(done, total)
    write_rejects(out.parent, rejects)
    if table is None:
        raise EmptyDatasetError(
            f"no picture of {source.path} could be embedded: see the rows' 'role' and {REJECTS_FILE}"
        )
    return table, rejects


def _has_space(row: Mapping[str, Any], names: AttributeNames, rejects: list[Reject]) -> bool:
    """Return whether the table may have the names of a row's attributes too; else add it to `rejects`."""
    try:
        own = names_of(row.get("attributes"))
        check_count(own, LIMITS.item_attributes)
        names.add(own)
    except DataError as error:
        rejects.append(Reject(row["id"], str(error)))
        return False
    return True


def _existing(out: Path, bundle: Bundle) -> ProductTable | None:
    try:
        table = ProductTable.recover(out)
    except DataError:
        if out.exists():
            raise
        return None
    if table.bundle_hash != bundle.hash:
        raise ConfigurationError(
            f"{out} holds vectors of bundle {table.bundle_hash[:12]}, this is {bundle.hash[:12]}: write to another "
            "--out, index it, and serve the new bundle, table and index together"
        )
    return table


def _embedded(
    bundle: Bundle,
    data: ProductDataset,
    table: ProductTable | None,
    rejects: list[Reject],
    gpus: Gpus,
    log: Callable[[str], None],
) -> Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]:
    names = [name for name in data.columns if name in ("id", *INPUT_FIELDS)]
    dataset = data.gallery()
    if any(name.startswith(ATTRIBUTE) for name in data.columns):
        names.append("attributes")
        dataset = dataset.map_batches(_join_attributes, batch_format="pyarrow", zero_copy_batch=True)
    if table is not None:
        keys, contents, _ = table.key_map().arrays()
        held = ray.put((keys, contents))
        dataset = dataset.map_batches(
            lambda rows: _changed(rows, names, *ray.get(held)), batch_format="pyarrow", zero_copy_batch=True
        )
    dataset = dataset.repartition(target_num_rows_per_block=ROWS_PER_COMMIT)  # vectors are computed block by block
    for batch in predict(bundle, dataset, rejects, tuple(names), reads=("image",), gpus=gpus, log=log):
        if "out/embedding" not in batch:
            raise ConfigurationError(
                f"the bundle at {bundle.path} ({bundle.family.name}) computes no vectors to search"
            )
        columns = {name: batch[name] for name in names}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        yield rows, np.ascontiguousarray(batch["out/embedding"], np.float32)


def _changed(rows: pa.Table, names: Sequence[str], keys: NDArray[np.uint64], contents: NDArray[np.uint64]) -> pa.Table:
    """Return the rows that are new or changed, compared with a table's sorted keys and their contents."""
    if len(keys) == 0 or len(rows) == 0:
        return rows
    hashes = [(item_key(row["id"]), content_hash(row)) for row in rows.select(names).to_pylist()]
    row_keys = np.array([key for key, _ in hashes], np.uint64)
    positions = np.minimum(np.searchsorted(keys, row_keys), len(keys) - 1)
    same = (keys[positions] == row_keys) & (contents[positions] == [content for _, content in hashes])
    return rows.filter(pa.array(~same))


def _join_attributes(rows: pa.Table) -> pa.Table:
    """Return rows with their attributes in one column, encoded: NumPy has no missing integers, and would round them."""
    names = [name for name in rows.column_names if name.startswith(ATTRIBUTE)]
    encoded = [encode_attributes(attributes_of(row)) for row in rows.select(names).to_pylist()]
    return rows.drop_columns(names).append_column("attributes", pa.array(encoded, pa.string()))


def _batched(
    batches: Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]],
) -> Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]:
    """Join batches to larger ones, so that a filtered data set does not commit every few rows."""
    rows: list[dict[str, Any]] = []
    vectors: list[NDArray[np.float32]] = []
    for batch_rows, batch_vectors in batches:
        rows += batch_rows
        vectors.append(batch_vectors)
        if len(rows) >= ROWS_PER_COMMIT:
            yield rows, np.concatenate(vectors)
            rows, vectors = [], []
    if rows:
        yield rows, np.concatenate(vectors)
