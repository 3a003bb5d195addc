"""Selects what `ProductTable.compact` writes anew, so that it writes little and reads stay fast.

Like a log-structured merge tree it merges files of similar size: all of up to `TINY_FILE_ROWS` rows, and of the others
the smallest ones, as far as none has more than a seventh of the rows of those before it together. Such a file becomes
part of one that is eight times as large, so that a row is written again at most log8(20,000 / 100) < 3 times from a
file of a hundred commits to one that is large. A large file is left as it is until `MAX_DEAD_SHARE` of its rows are
dead (superseded or deletions): then it is written again without them, at most (1 - .3) / .3 < 2.4 rows for each row
that died. Until then its dead rows are marked in a deletion vector, of at most two bytes for each of them and one bit
for each row of the file.

A row is thus written at most 1 + 1 + 3 + 2.4 = 7.4 times: when it is put, when a hundred commits are merged, on its way
to a large file, and in place of rows that die there. Each commit also writes a manifest of about 100 bytes a file.
After a compaction at most .3 of any file's rows are dead, and there are at most `MAX_LARGE_FILES` large files (more
where one has reached Lance's limit of a million rows) and about seven small ones of each of three sizes.

Rows that others append during a compaction may be stored before those that it writes. These are therefore marked as
compacted: every row that is not compacted is newer. All dead rows are removed or marked in one commit, so that the keys
of the others are unique.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ADDRESS = "_rowaddr"
"""Column of Lance with the address of a row: its fragment in the upper 32 bits."""

COMPACTED = "settled"
"""Column that is true in the rows that a compaction wrote."""

GROWTH = 8
"""Minimum factor by which a file grows when it is merged."""

TINY_FILE_ROWS = 100
"""Current rows of a file up to which it is always merged with others: as many as there are commits between two
compactions, so that this at most doubles what the commits write."""

MAX_DEAD_SHARE = 0.3
"""Dead rows of a file, as a part of all, from which it is written again without them."""

MIN_DEAD_ROWS = 1_000
"""Dead rows of a table, not marked as such, up to which they are no reason for a compaction."""

SMALL_FILE_ROWS = 20_000
"""Current rows of a file below which it is merged with others, in tables of up to `MAX_LARGE_FILES` such files."""

MAX_LARGE_FILES = 64
"""Files that are not merged any more; in larger tables they are larger."""


@dataclass(frozen=True, slots=True)
class FileRows:
    """Rows of one file (a fragment of Lance).

    Attributes:
        number: of the fragment.
        stored: all rows in it.
        current: rows that are the last of their id, and no deletion.
        unmarked: rows that are neither current nor in its deletion vector.
    """

    number: int
    stored: int
    current: int
    unmarked: int


def count_rows(dataset: Any, current: NDArray[np.uint64]) -> list[FileRows]:
    """Count the rows of every file of a dataset, of which those at the addresses in `current` are current."""
    ids, counts = np.unique(current >> np.uint64(32), return_counts=True)
    current_rows: Mapping[int, int] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    files = []
    for fragment in dataset.get_fragments():
        number, stored = fragment.fragment_id, fragment.physical_rows
        alive = current_rows.get(number, 0)
        files.append(FileRows(number, stored, alive, stored - fragment.num_deletions - alive))
    return files


def is_due(files: Sequence[FileRows], max_files: int) -> bool:
    """Return whether files should be compacted: more than `max_files` are small, or too many of all rows are dead."""
    small = [file for file in files if file.current < _small_limit(files)]
    unmarked = sum(file.unmarked for file in files)
    stored = sum(file.stored for file in files)
    return len(small) > max_files or unmarked > max(MIN_DEAD_ROWS, MAX_DEAD_SHARE * stored)


def files_to_rewrite(files: Sequence[FileRows]) -> list[int]:
    """Return the numbers of the files that are written again, as one: small ones, and those with many dead rows."""
    mostly_dead = {file.number for file in files if file.stored - file.current > MAX_DEAD_SHARE * file.stored}
    small = sorted((file.current, file.number) for file in files if file.current < _small_limit(files))
    merged: list[int] = []
    rows = 0
    for position, (count, _) in enumerate(small):
        if position and (count <= TINY_FILE_ROWS or (GROWTH - 1) * count <= rows):
            merged = [number for _, number in small[: position + 1]]
        rows += count
    return sorted(mostly_dead.union(merged))


def dead_addresses(dataset: Any, number: int, current: NDArray[np.uint64]) -> list[int]:
    """Return the addresses of a file's rows that are not current, and not in its deletion vector either."""
    fragment = dataset.get_fragment(number)
    rows = fragment.scanner(columns=[], with_row_address=True).to_table()[ADDRESS].to_numpy()
    dead: list[int] = rows[~np.isin(rows, current)].tolist()
    return dead


def compacted_rows(dataset: Any, fragments: Iterable[int], current: NDArray[np.uint64]) -> pa.RecordBatchReader:
    """Return a reader of the current rows of these fragments, marked as compacted."""
    column = dataset.schema.get_field_index(COMPACTED)
    scanner = dataset.scanner(
        fragments=[dataset.get_fragment(number) for number in fragments], with_row_address=True, scan_in_order=True
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in scanner.to_batches():
            rows = batch.filter(pa.array(np.isin(batch[ADDRESS].to_numpy(), current))).drop_columns([ADDRESS])
            yield rows.set_column(column, dataset.schema.field(COMPACTED), pa.array(np.ones(len(rows), bool)))

    return pa.RecordBatchReader.from_batches(dataset.schema, batches())


def _small_limit(files: Sequence[FileRows]) -> int:
    """Return the current rows below which a file is small."""
    return max(SMALL_FILE_ROWS, sum(file.current for file in files) // MAX_LARGE_FILES)
