"""Selects and reads the rows that `ProductTable.compact` writes anew.

Rows that others append during a compaction may be stored before those that it writes. These are therefore marked as
compacted: their keys are unique, and every row that is not compacted is newer.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ADDRESS = "_rowaddr"
"""Column of Lance with the address of a row: its fragment in the upper 32 bits."""

COMPACTED = "settled"
"""Column that is true in the rows that a compaction wrote."""

SMALL_FILE_ROWS = 20_000
"""Rows of a fragment below which it is merged with others."""


def fragments_to_compact(dataset: Any, current: NDArray[np.uint64]) -> list[int]:
    """Return the fragments of a dataset that hold superseded rows, and the small ones if there are several.

    Args:
        dataset: of Lance.
        current: addresses of the current rows.
    """
    ids, counts = np.unique(current >> np.uint64(32), return_counts=True)
    current_rows = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in dataset.get_fragments()}
    superseded = {number for number, count in rows.items() if count > current_rows.get(number, 0)}
    small = {number for number, count in rows.items() if count < SMALL_FILE_ROWS}
    return sorted(superseded | small if len(small) > 1 else superseded)


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
