"""The door: reads a user's data set, checks it once, and streams its good rows through Ray Data."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from ray.data.expressions import col

from galleria.catalog.items import item_key
from galleria.errors import DataError, EmptyDatasetError, SchemaError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.rejects import Reject
from galleria.pipelines.splits import SPLITS

KNOWN = {
    "split": pa.string(),
    "title": pa.string(),
    "category": pa.list_(pa.string()),
}
"""Columns that every data set may have, beside those of the family."""
ATTRIBUTE = "attribute:"
"""Begins the name of a column that becomes an attribute of the items."""

HEAVY = (pa.types.is_binary, pa.types.is_large_binary)
MEGABYTES_A_BLOCK = 32

ATTRIBUTE_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
)


@dataclass(frozen=True)
class Source:
    """Where a data set lies and how it is to be read.

    Attributes:
        path: a parquet file or a folder of them, local or on an object store.
        columns: galleria's name → the name in the files, where they differ.
        category_depth: rows whose category path has another length are rejected; None takes any.
        attributes: columns of the files that become attributes of the items, by which searches can be filtered.
    """

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    category_depth: int | None = None
    attributes: Sequence[str] = ()


class ProductDataset:
    """A data set that passed the door.

    Attributes:
        rejects: rows that were found unusable without opening their pictures, rows used in part, and columns not read.
        ignored: columns of the files that nothing here reads.
        counts: good rows of each split.
    """

    def __init__(self, source: Source, family: Family[Any]) -> None:
        """Check the columns, then every row's small fields in one pass over them.

        Raises:
            SchemaError: a column is missing or of another type.
            EmptyDatasetError: no good row is left.
        """
        self._source = source
        self._files = _open(source.path)
        self._names = _match_columns(self._files.schema, source, family)
        self._required = [column.name for column in family.schema if not column.nullable]
        self.ignored = sorted(set(self._files.schema.names) - set(self._names.values()))
        self._light = {
            name: actual
            for name, actual in self._names.items()
            if not any(heavy(self._files.schema.field(actual).type) for heavy in HEAVY)
        }
        self._repeated = self._find_repeated()
        self.rejects: list[Reject] = []
        counts: Counter[str] = Counter()
        for place, row in enumerate(self._scan()):
            reason = self._problem(row)
            if reason is not None:
                self.rejects.append(Reject(row["id"] or "", reason, place))
                continue
            counts[row.get("split") or "train"] += 1
            if "text" in row and not row["text"]:
                reason = "the text is missing: the picture is used without it; add a text"
                self.rejects.append(Reject(row["id"], reason, place, kept=True))
        self.counts = dict(counts)
        if not counts:
            raise EmptyDatasetError(
                f"no row of {source.path} can be used; the first reason: {self.rejects[0].reason}"
                if self.rejects
                else f"{source.path} has no rows"
            )
        for name in self.ignored:
            reason = f"the column {name!r} is not read: if it is one of galleria's under another name, say --column"
            self.rejects.append(Reject("", reason, kept=True))

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are there, as galleria calls them."""
        return list(self._names)

    def require(self, split: str) -> int:
        """Number of good rows in `split`.

        Raises:
            EmptyDatasetError: there is none.
        """
        if not self.counts.get(split):
            found = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
            raise EmptyDatasetError(
                f"the split {split!r} of {self._source.path} has no usable row (found: {found}): "
                f"set the column 'split' to {split!r} for some rows"
            )
        return self.counts[split]

    def rows(self, split: str) -> Iterator[Row]:
        """Good rows of a split without their pictures, read in this process."""
        return (row for row in self._scan() if (row.get("split") or "train") == split and self._problem(row) is None)

    def stream(self, split: str | None = None) -> ray.data.Dataset:
        """Good rows with their pictures as a lazy Ray data set, of one split or of all."""
        actual = self._names.get("split")
        blocks = max(1, sum(_sizes(self._files)) // (MEGABYTES_A_BLOCK << 20))
        dataset = ray.data.read_parquet(self._source.path, override_num_blocks=blocks)
        dataset = dataset.select_columns(list(self._names.values()))
        if split is not None and actual is not None:
            dataset = dataset.filter(expr=col(actual) == split)
        renamed = {actual: name for name, actual in self._names.items() if actual != name}
        if renamed:
            dataset = dataset.rename_columns(renamed)
        if any(not reject.kept for reject in self.rejects):
            dataset = dataset.map_batches(self._good_rows, batch_format="pyarrow", zero_copy_batch=True)
        return dataset

    def gallery(self, split: str | None = None) -> ray.data.Dataset:
        """Rows that may stand in a gallery (role not "query"), and all rows of `split`.

        Gallery rows of other splits are distractors: only their pictures count, so they come without texts.
        """
        dataset = self.stream()
        if "role" not in self._names:
            return dataset

        def chosen(table: pa.Table) -> pa.Table:
            wanted = pc.invert(pc.fill_null(pc.equal(table["role"], "query"), False))
            if split is None or "split" not in table.column_names:
                return table.filter(wanted)
            inside = pc.equal(table["split"], split)
            if "text" in table.column_names:
                text = pc.if_else(inside, table["text"], None)
                table = table.set_column(table.column_names.index("text"), "text", text)
            return table.filter(pc.or_(wanted, inside))

        return dataset.map_batches(chosen, batch_format="pyarrow", zero_copy_batch=True)

    def _good_rows(self, table: pa.Table) -> pa.Table:
        light = table.select([name for name in table.column_names if name in self._light])
        return table.filter(pa.array([self._problem(row) is None for row in light.to_pylist()], pa.bool_()))

    def _scan(self) -> Iterator[dict[str, Any]]:
        for batch in self._files.to_batches(columns=list(self._light.values())):
            yield from batch.rename_columns(list(self._light)).to_pylist()

    def _find_repeated(self) -> set[str]:
        seen: set[str] = set()
        repeated: set[str] = set()
        for batch in self._files.to_batches(columns=[self._names["id"]]):
            for identifier in batch.column(0).to_pylist():
                (repeated if identifier in seen else seen).add(identifier)
        return repeated

    def _problem(self, row: Row) -> str | None:
        for name in self._required:
            if name in row and row[name] in (None, ""):
                return f"the column {name!r} is empty: fill it in"
        try:
            item_key(row["id"])
        except DataError as error:
            return str(error)
        if row["id"] in self._repeated:
            return f"the id {row['id']!r} is used more than once: give every picture its own"
        split = row.get("split") or "train"
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


def _match_columns(schema: pa.Schema, source: Source, family: Family[Any]) -> dict[str, str]:
    """Galleria's name → the name in the files, for every known column that is there."""
    wanted = KNOWN | {column.name: column.type for column in family.schema}
    unknown = [name for name in source.columns if name not in wanted]
    if unknown:
        raise SchemaError(f"unknown column {unknown[0]!r}: {family.name} reads {', '.join(sorted(wanted))}")
    names = {name: source.columns.get(name, name) for name in wanted}
    for name, actual in names.items():
        required = name in source.columns or any(
            column.name == name and not column.nullable for column in family.schema
        )
        if actual not in schema.names and required:
            near = difflib.get_close_matches(actual, schema.names, n=1)
            hint = f": did you mean {near[0]!r}? Say --column {name}={near[0]}" if near else ""
            raise SchemaError(
                f"{source.path} has no column {actual!r}{hint or ': say --column ' + name + '=NAME'} "
                f"(its columns: {', '.join(schema.names)})"
            )
    present = {name: actual for name, actual in names.items() if actual in schema.names}
    for name, actual in present.items():
        found = schema.field(actual).type
        if not _compatible(found, wanted[name]):
            raise SchemaError(f"the column {actual!r} of {source.path} is {found}, not {wanted[name]}: convert it")
    for name in source.attributes:
        if name not in schema.names:
            raise SchemaError(f"{source.path} has no column {name!r} (its columns: {', '.join(schema.names)})")
        if not any(test(schema.field(name).type) for test in ATTRIBUTE_TYPES):
            raise SchemaError(f"the column {name!r} is {schema.field(name).type}: an attribute is a text or a number")
    return present | {f"{ATTRIBUTE}{name}": name for name in source.attributes}


def _compatible(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_string(wanted):
        plain = found.value_type if pa.types.is_dictionary(found) else found
        return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_null(plain))
    if pa.types.is_binary(wanted):
        return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found))
    if pa.types.is_list(wanted):
        inner = found.value_type if pa.types.is_list(found) or pa.types.is_large_list(found) else None
        return inner is not None and _compatible(inner, wanted.value_type)
    return bool(found == wanted)
