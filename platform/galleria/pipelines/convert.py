"""Converts a user's files to the parquet that all pipelines read, with the pictures in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from ray.util.queue import Queue

from galleria.errors import ConfigurationError, DataError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.columns import column_types
from galleria.pipelines.readers import ReadOptions, list_rows
from galleria.pipelines.readers.files import file_columns, read_file
from galleria.pipelines.rejects import Reject, write_rejects

ROWS_PER_FILE = 4096


def convert(path: str, family: Family[Any], options: ReadOptions, out: Path) -> tuple[int, list[Reject]]:
    """Write the rows of `list_rows` to the folder `out`; videos are not copied, but named by their paths.

    Returns:
        Number of rows written, and the rows whose files cannot be read, also listed in `out/../rejects.jsonl`.

    Raises:
        DataError: the source cannot be read, or no row is left.
        ConfigurationError: `out` exists, or an option names a column that the family does not have.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists already: remove it, or choose another --out")
    rows = list_rows(path, family, options)
    files = [name for name in file_columns(family) if name != "video"]
    rejects: list[Reject] = []
    with ray_cluster():
        messages = Queue(actor_options={"num_cpus": 0})
        listed = ray.data.from_arrow(_table(rows, family, files))
        blocks = max(1, len(rows) // ROWS_PER_FILE)

        def load(table: pa.Table) -> pa.Table:
            return _load(table, family, files, messages)

        loaded = listed.repartition(blocks).map_batches(load, batch_format="pyarrow", batch_size=256)
        loaded.write_parquet(str(out.absolute()), min_rows_per_file=ROWS_PER_FILE)
        while not messages.empty():
            rejects.append(messages.get())
        messages.shutdown()
    write_rejects(out.parent, rejects)
    if len(rejects) == len(rows):
        raise DataError(f"no file of {path} can be read; the first reason: {rejects[0].reason}")
    return len(rows) - len(rejects), rejects


def _table(rows: Sequence[Row], family: Family[Any], files: Sequence[str]) -> pa.Table:
    """Return listed rows as a table: files are paths, or contents where a parquet table holds them."""
    types = column_types(family)
    for name in files:
        if not any(isinstance(row.get(name), bytes) for row in rows):
            types[name] = pa.string()
    present = [name for name in types if any(row.get(name) is not None for row in rows)]
    return pa.table({name: pa.array([row.get(name) for row in rows], types[name]) for name in present})


def _load(table: pa.Table, family: Family[Any], files: Sequence[str], messages: Queue) -> pa.Table:
    """Read the files that paths name; a row with a file that cannot be read is reported and left out."""
    valid = [True] * len(table)
    for name in files:
        if name not in table.column_names or not pa.types.is_string(table.schema.field(name).type):
            continue
        contents: list[bytes | None] = []
        for number, path in enumerate(table[name].to_pylist()):
            try:
                contents.append(read_file(path) if path else None)
            except DataError as error:
                contents.append(None)
                if valid[number]:
                    messages.put(Reject(table["id"][number].as_py(), str(error)))
                valid[number] = False
        column = pa.array(contents, family.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    return table.filter(pa.array(valid))
