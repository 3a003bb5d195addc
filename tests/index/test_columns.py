"""Columns of attributes take memory for their values only, and keep them through joins, orders and files."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.index.base import Vectors, open_build, write_build
from galleria.index.columns import join_columns, take_columns
from galleria.index.filters import read_filter
from galleria.index.kinds import Plan
from tests.index.builds import HASH, columns, unit
from tests.soak import SOAK

VALUE_BYTES = 64
"""Generous memory of one value: two ends of runs, its own, and those of the array that holds it."""

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | st.sampled_from(["a", "b"])
ROWS = st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES), max_size=9)


def decoded(table):
    """Return the values of all columns but those of the fields, by row."""
    names = [name for name in table.column_names if ":" in name]
    lists = [table[name].combine_chunks().to_pylist() for name in names]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*lists, strict=True)
    ] or [{}] * len(table)


def items_of(rows, first=0):
    return columns([{"id": f"{first + number}", "attributes": row} for number, row in enumerate(rows)])


@pytest.mark.parametrize("names", [10, 60])
def test_memory_follows_the_number_of_values(names):
    """Each item has names of its own: a dense column of each would take 8 bytes an item."""
    count = 100
    rows = [{f"{number} {name}": name for name in range(names)} for number in range(count)]
    table = items_of(rows)

    assert len(table.column_names) > count * names
    assert sum(column.nbytes for column in table.itercolumns()) < VALUE_BYTES * count * names
    joined = join_columns([table, items_of(rows[:1], count)])
    assert sum(column.nbytes for column in joined.itercolumns()) < 2 * VALUE_BYTES * count * names


@settings(deadline=None, max_examples=50 * SOAK, derandomize=True)
@given(parts=st.lists(ROWS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_columns_keep_values_in_any_order(parts, seed):
    rows = [row for part in parts for row in part]
    table = join_columns([items_of(part) for part in parts])
    order = np.random.default_rng(seed).permutation(len(rows))
    expected = decoded(items_of(rows))

    assert decoded(table) == expected
    assert decoded(take_columns(table, order)) == [expected[position] for position in order]
    for name in "xyz":
        for value in (True, 1, 0.5, "a"):
            mask = read_filter({name: value}).mask(table)
            assert mask.tolist() == read_filter({name: value}).mask(items_of(rows)).tolist()
            half = len(rows) // 2
            assert read_filter({name: value}).mask(table.slice(half)).tolist() == mask[half:].tolist()


def test_index_file_keeps_sparse_values(tmp_path):
    rows = [{f"own {number}": number, "odd": bool(number % 2)} for number in range(300)]
    keys = np.random.default_rng(0).permutation(300).astype(np.uint64)
    write_build(tmp_path, [Vectors(keys, keys, unit(300, 4), items_of(rows))], Plan(), HASH, 1)

    base = open_build(tmp_path, HASH).bases[0]

    assert base.columns.schema.field("integer:own 7").type == pa.run_end_encoded(pa.int32(), pa.int64())
    assert base.keys[read_filter({"own 7": 7}).mask(base.columns)].tolist() == [keys[7]]
    assert sorted(base.keys[read_filter({"odd": True}).mask(base.columns)].tolist()) == sorted(keys[1::2].tolist())
    assert json.dumps(base.columns["id"].to_pylist()) == json.dumps([f"{n}" for n in np.argsort(keys).tolist()])
