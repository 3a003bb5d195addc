"""Input validation: checks a user's data set once, and streams its valid rows through Ray Data."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from ray.data.expressions import col

from galleria.catalog.items import check_fields, item_key
from galleria.errors import DataError, EmptyDatasetError, SchemaError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.columns import Source, attributes_of, match_columns
from galleria.pipelines.rejects import Reject
from galleria.pipelines.splits import SPLITS, fill_splits, split_of_row

__all__ = ["ProductDataset", "Source"]

HEAVY_TYPES = (pa.types.is_binary, pa.types.is_large_binary)
"""Types of the columns that checks leave on the disk: contents of pictures."""
BLOCK_BYTES = 32 << 20


class ProductDataset:
    """A data set whose columns and rows were validated.

    Attributes:
        rejects: rows that are invalid (pictures are not opened), rows used in part, and columns not read.
        ignored: columns of the files that are not read.
        counts: number of valid rows of each split.
    """

    def __init__(self, source: Source, family: Family[Any]) -> None:
        """Check the columns, then the fields of every row, apart from its pictures, in one pass.

        Raises:
            SchemaError: a column is missing or of another type.
            EmptyDatasetError: no row is valid.
        """
        self._source = source
        self._files = _open(source.path)
        self._names = match_columns(self._files.schema, source, family)
        self._required = [column.name for column in family.schema if not column.nullable]
        self.ignored = sorted(set(self._files.schema.names) - set(self._names.values()))
        self._light = {
            name: actual
            for name, actual in self._names.items()
            if not any(is_heavy(self._files.schema.field(actual).type) for is_heavy in HEAVY_TYPES)
        }
        self._duplicate_ids = self._find_duplicate_ids()
        self.rejects: list[Reject] = []
        self._has_rows_without_split = "split" not in self._names
        self.counts = dict(self._check_rows())
        if not self.counts:
            raise EmptyDatasetError(
                f"no row of {source.path} can be used; the first reason: {self.rejects[0].reason}"
                if self.rejects
                else f"{source.path} has no rows"
            )
        for name in self.ignored:
            reason = f"the column {name!r} is not read: if it is one of galleria's under another name, add --column"
            self.rejects.append(Reject("", reason, kept=True))

    @property
    def columns(self) -> list[str]:
        """Galleria's names of the columns that are present."""
        return list(self._names)

    def require(self, split: str) -> int:
        """Return the number of valid rows in `split`.

        Raises:
            EmptyDatasetError: there are none.
        """
        if not self.counts.get(split):
            counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
            raise EmptyDatasetError(
                f"the split {split!r} of {self._source.path} has no usable row (found: {counts}): "
                f"set the column 'split' to {split!r} for some rows"
            )
        return self.counts[split]

    def rows(self, split: str) -> Iterator[Row]:
        """Read the valid rows of a split, without their pictures, in this process."""
        return (row for row in self._scan() if split_of_row(row) == split and self._invalid(row) is None)

    def stream(self, split: str | None = None) -> ray.data.Dataset:
        """Return the valid rows, with their pictures, of one split or of all as a lazy Ray data set.

        Each has a split: that of `split_of_row`.
        """
        blocks = max(1, sum(_sizes(self._files)) // BLOCK_BYTES)
        dataset = ray.data.read_parquet(self._source.path, override_num_blocks=blocks)
        dataset = dataset.select_columns(list(self._names.values()))
        if split is not None and not self._has_rows_without_split:  # before any step in Python: Parquet skips rows
            dataset = dataset.filter(expr=col(self._names["split"]) == split)
        renamed = {actual: name for name, actual in self._names.items() if actual != name}
        if renamed:
            dataset = dataset.rename_columns(renamed)
        if self._has_rows_without_split:
            dataset = dataset.map_batches(fill_splits, batch_format="pyarrow", zero_copy_batch=True)
            dataset = dataset if split is None else dataset.filter(expr=col("split") == split)
        if any(not reject.kept for reject in self.rejects):
            dataset = dataset.map_batches(self._valid_rows, batch_format="pyarrow", zero_copy_batch=True)
        return dataset

    def gallery(self, split: str | None = None) -> ray.data.Dataset:
        """Return the rows of a gallery (role not "query"), and all rows of `split`.

        Gallery rows of other splits are distractors: only their pictures are used, so their texts are left out.
        """
        dataset = self.stream()
        if "role" not in self._names:
            return dataset

        def select(table: pa.Table) -> pa.Table:
            gallery = pc.invert(pc.fill_null(pc.equal(table["role"], "query"), False))
            if split is None:
                return table.filter(gallery)
            inside = pc.equal(table["split"], split)
            if "text" in table.column_names:
                text = pc.if_else(inside, table["text"], None)
                table = table.set_column(table.column_names.index("text"), "text", text)
            return table.filter(pc.or_(gallery, inside))

        return dataset.map_batches(select, batch_format="pyarrow", zero_copy_batch=True)

    def _valid_rows(self, table: pa.Table) -> pa.Table:
        light = table.select([name for name in table.column_names if name in self._light])
        return table.filter(pa.array([self._invalid(row) is None for row in light.to_pylist()], pa.bool_()))

    def _scan(self) -> Iterator[dict[str, Any]]:
        for batch in self._files.to_batches(columns=list(self._light.values())):
            yield from batch.rename_columns(list(self._light)).to_pylist()

    def _find_duplicate_ids(self) -> set[str]:
        seen: set[str] = set()
        duplicates: set[str] = set()
        for batch in self._files.to_batches(columns=[self._names["id"]]):
            for identifier in batch.column(0).to_pylist():
                (duplicates if identifier in seen else seen).add(identifier)
        return duplicates

    def _check_rows(self) -> Counter[str]:
        """Collect rejects, and return the number of valid rows of each split."""
        counts: Counter[str] = Counter()
        for number, row in enumerate(self._scan()):
            reason = self._invalid(row)
            if reason is not None:
                self.rejects.append(Reject(row["id"] or "", reason, number))
                continue
            counts[split_of_row(row)] += 1
            self._has_rows_without_split |= not row.get("split")
            if "text" in row and not row["text"]:
                reason = "the text is missing: the picture is used without it; add a text"
                self.rejects.append(Reject(row["id"], reason, number, kept=True))
        return counts

    def _invalid(self, row: Row) -> str | None:
        """Return what is wrong with a row and how to fix it, or None."""
        for name in self._required:
            if name in row and row[name] in (None, ""):
                return f"the column {name!r} is empty: fill it in"
        try:
            item_key(row["id"])
            check_fields({**row, "attributes": attributes_of(row)})
        except DataError as error:
            return str(error)
        if row["id"] in self._duplicate_ids:
            return f"the id {row['id']!r} is used more than once: give every row its own"
        split = split_of_row(row)
        if split not in SPLITS:
            return f"the split {split!r} is unknown: use one of {', '.join(SPLITS)}"
        depth = self._source.category_depth
        if depth is not None and len(row.get("category") or ()) != depth:
            path = " / ".join(row.get("category") or ()) or "nothing"
            return f"the category path {path!r} has {len(row.get('category') or ())} levels, not {depth}: complete it"
        return None


def _open(path: str) -> pyarrow.dataset.Dataset:
    try:
        files = pyarrow.dataset.dataset(path, format="parquet")
    except (FileNotFoundError, OSError, pa.ArrowInvalid) as error:
        raise SchemaError(f"{path} cannot be read as parquet: {error}") from error
    if not files.files:
        raise SchemaError(f"{path} holds no parquet file: name a parquet file or a folder of them")
    return files


def _sizes(files: pyarrow.dataset.Dataset) -> list[int]:
    return [group.total_byte_size for part in files.get_fragments() for group in part.row_groups]
