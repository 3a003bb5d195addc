"""Input validation: checks a user's data set once, and streams its valid rows through Ray Data."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from ray.data.expressions import col

from galleria.catalog.items import check_fields, item_key
from galleria.errors import DataError, EmptyDatasetError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.attribute_columns import Convert, attribute_converter
from galleria.pipelines.columns import ATTRIBUTE, Source, attributes_of, is_file_struct, match_columns
from galleria.pipelines.parquet_files import ParquetFiles, fit
from galleria.pipelines.readers.files import parent_folder, read_file_structs
from galleria.pipelines.rejects import Reject
from galleria.pipelines.splits import SPLITS, fill_splits, split_of_row

__all__ = ["ProductDataset", "Source"]

HEAVY_TYPES = (pa.types.is_binary, pa.types.is_large_binary, is_file_struct)
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
        self._files = ParquetFiles.open(source.path)
        self._names = match_columns(self._files.schema, source, family)
        self._required = [column.name for column in family.schema if not column.nullable]
        self.ignored = sorted(set(self._files.schema.names) - set(self._names.values()))
        self._light = {
            name: actual
            for name, actual in self._names.items()
            if not any(is_heavy(self._files.schema.field(actual).type) for is_heavy in HEAVY_TYPES)
        }
        self._converters = _converters(self._files, self._names, source)
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
        groups = [self._read_group(group, split) for group in self._files.groups]
        dataset = groups[0].union(*groups[1:]) if len(groups) > 1 else groups[0]
        renamed = {actual: name for name, actual in self._names.items() if actual != name}
        if len(set(self._names.values())) < len(self._names):  # such as a column that is both id and product_id
            named = partial(_named, names=self._names)
            dataset = dataset.map_batches(named, batch_format="pyarrow", zero_copy_batch=True)
        elif renamed:
            dataset = dataset.rename_columns(renamed)
        if self._converters:
            dataset = dataset.map_batches(self._convert, batch_format="pyarrow", zero_copy_batch=True)
        if self._has_rows_without_split:
            dataset = dataset.map_batches(fill_splits, batch_format="pyarrow", zero_copy_batch=True)
            dataset = dataset if split is None else dataset.filter(expr=col("split") == split)
        if any(not reject.kept for reject in self.rejects):
            dataset = dataset.map_batches(self._valid_rows, batch_format="pyarrow", zero_copy_batch=True)
        return dataset

    def _read_group(self, group: pyarrow.dataset.Dataset, split: str | None) -> ray.data.Dataset:
        """Return the rows of files of one schema, with the names of the columns in the files."""
        blocks = max(1, sum(_sizes(group)) // BLOCK_BYTES)
        is_only = len(self._files.groups) == 1
        paths = self._source.path if is_only else group.files
        filesystem = None if is_only else group.filesystem
        dataset = ray.data.read_parquet(paths, filesystem=filesystem, override_num_blocks=blocks)
        columns = list(dict.fromkeys(self._names.values()))
        dataset = dataset.select_columns([name for name in columns if name in group.schema.names])
        if split is not None and not self._has_rows_without_split:  # before any step in Python: Parquet skips rows
            dataset = dataset.filter(expr=col(self._names["split"]) == split)
        if is_only:
            return dataset
        schema = pa.schema([self._files.schema.field(name) for name in columns])
        return dataset.map_batches(partial(fit, schema=schema), batch_format="pyarrow", zero_copy_batch=True)

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
        for table in self._files.read(list(self._light.values())):
            yield from self._convert(_named(table, self._light)).to_pylist()

    def _convert(self, table: pa.Table) -> pa.Table:
        """Return rows with the types that galleria reads."""
        for name, convert in self._converters.items():
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, convert(table[name]))
        return table

    def _find_duplicate_ids(self) -> set[str]:
        seen: set[str] = set()
        duplicates: set[str] = set()
        for table in self._files.read([self._names["id"]]):
            for identifier in table.column(0).to_pylist():
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


def _named(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Return the columns of the files under galleria's names."""
    return pa.table({name: table[actual] for name, actual in names.items()})


def _converters(files: ParquetFiles, names: Mapping[str, str], source: Source) -> dict[str, Convert]:
    """Return galleria's name → what makes its type of a column, for those that have another."""
    converters: dict[str, Convert] = {}
    folder = parent_folder(source.path)
    for name, actual in names.items():
        kind = files.schema.field(actual).type
        if name.startswith(ATTRIBUTE):
            convert = attribute_converter(kind, actual)
        else:
            convert = partial(read_file_structs, folder=folder) if is_file_struct(kind) else None
        if convert is not None:
            converters[name] = convert
    return converters


def _sizes(files: pyarrow.dataset.Dataset) -> list[int]:
    return [group.total_byte_size for part in files.get_fragments() for group in part.row_groups]
