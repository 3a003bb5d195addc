"""An item is a row of the table, or is refused with the reason."""

import json
from typing import Any

import numpy as np
import pytest

from galleria.catalog.items import (
    BUNDLE_HASH,
    MAX_ID_BYTES,
    check_unit,
    content_hash,
    deletions,
    encode_attributes,
    item_key,
    table_schema,
    upserts,
)
from galleria.errors import DataError, SchemaError
from tests.catalog.tables import HASH, at_angle, unit

SHOE = {
    "id": "shoe",
    "image": b"\xff\xd8 picture",
    "title": "Red shoe",
    "text": "A shoe that is red",
    "category": ["Shoes", "Low"],
    "product_id": "p1",
    "source": "house",
    "attributes": {"price": 20, "colour": "red", "new": True},
}


def changed(**fields: Any) -> dict[str, Any]:
    return SHOE | fields


def test_a_key_is_the_same_on_every_machine():
    assert [item_key("a"), item_key("鞋")] == [3405396810240292928, 14092700624335495529]


@pytest.mark.parametrize("name", ["a", "鞋", "👟", "../a", "'; drop", "x" * MAX_ID_BYTES, "鞋" * 170])
def test_any_text_of_up_to_512_bytes_is_an_id(name):
    assert 0 <= item_key(name) < 2**64


@pytest.mark.parametrize("name", ["", "x" * (MAX_ID_BYTES + 1), "鞋" * 171, "\ud800", "a\udfffb"])
def test_an_id_that_is_empty_or_too_long_or_half_a_character_is_refused(name):
    with pytest.raises(DataError, match="id"):
        item_key(name)


@pytest.mark.parametrize("name", [5, None, b"a", ["a"]])
def test_an_id_that_is_no_text_is_refused(name):
    with pytest.raises(DataError, match="is no text"):
        item_key(name)
    with pytest.raises(DataError, match="is no text"):
        upserts([{"id": name}], unit(1), HASH)
    with pytest.raises(DataError, match="is no text"):
        deletions([name], table_schema(3, HASH))


def test_an_item_without_an_id_is_refused():
    with pytest.raises(DataError, match="1 to 512 bytes"):
        upserts([{"title": "a"}], unit(1), HASH)


def test_the_same_meaning_has_the_same_content():
    same = [
        dict(reversed(SHOE.items())),
        changed(id="another"),
        changed(category=("Shoes", "Low")),
        changed(category=np.array(["Shoes", "Low"])),
        changed(attributes={"new": True, "colour": "red", "price": 20}),
        changed(attributes=encode_attributes(SHOE["attributes"])),
        changed(attributes=json.dumps(SHOE["attributes"], indent=1)),
        changed(price=3, embedding=[1]),
    ]

    assert {content_hash(item) for item in same} == {content_hash(SHOE)}


def test_what_is_missing_or_null_or_an_empty_list_is_the_same():
    nothing = {"title": None, "category": [], "attributes": {}}

    assert content_hash({"id": "a"}) == content_hash(nothing) == content_hash({"attributes": "{}"})


@pytest.mark.parametrize(
    "fields",
    [
        {"image": b"\xff\xd8 Picture"},
        {"image": None},
        {"title": "Red shoes"},
        {"text": ""},
        {"category": ["Shoes"]},
        {"category": ["ShoesLow"]},
        {"product_id": "p2"},
        {"source": None},
        {"attributes": {"price": 21, "colour": "red", "new": True}},
        {"attributes": {"price": "20", "colour": "red", "new": True}},
        {"title": "A shoe that is red", "text": "Red shoe"},
    ],
    ids=str,
)
def test_every_field_is_part_of_the_content(fields):
    assert content_hash(changed(**fields)) != content_hash(SHOE)


def test_a_vector_of_ones_own_is_part_of_the_content():
    one, other = np.eye(2, dtype=np.float32)
    hashes = {content_hash(SHOE), content_hash(SHOE | {"vector": one}), content_hash(SHOE | {"vector": other})}
    assert len(hashes) == 3


def test_a_row_holds_what_was_described():
    row = upserts([SHOE], at_angle(0), HASH).to_pylist()[0]

    assert row == SHOE | {
        "key": item_key("shoe"),
        "content": content_hash(SHOE),
        "deleted": False,
        "settled": False,
        "attributes": '{"colour": "red", "new": true, "price": 20}',
        "embedding": [1, 0, 0],
    }


def test_a_deletion_holds_only_the_key():
    batch = deletions(["a", "鞋"], table_schema(3, HASH))

    assert batch["deleted"].to_pylist() == [True, True]
    assert batch["key"].to_pylist() == [item_key("a"), item_key("鞋")]
    assert batch["embedding"].null_count == batch["title"].null_count == 2


def test_rows_name_the_bundle_of_their_vectors():
    assert upserts([SHOE], unit(1), HASH).schema.metadata[BUNDLE_HASH] == HASH.encode()


def test_no_items_are_no_rows():
    assert len(upserts([], unit(0), HASH)) == len(deletions([], table_schema(3, HASH))) == 0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_vectors_of_any_number_are_kept_as_float32(kind):
    vectors = np.array([[0, 1, 0], [1, 0, 0]], kind)[::-1]

    batch = upserts([{"id": "a"}, {"id": "b"}], vectors, HASH)

    assert batch["embedding"].to_pylist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 0.9, 1.1, 1e30])
def test_a_vector_that_is_not_of_unit_length_is_refused_and_its_row_named(value):
    vectors = unit(9)
    vectors[4] = (value, 0, 0)

    with pytest.raises(DataError, match=r"1 vectors are not of unit length \(first: row 4\)"):
        check_unit(vectors)


@pytest.mark.parametrize("vectors", [np.ones(3), np.ones((1, 1, 3)), np.array([[1, None]]), np.array([["a"]])])
def test_what_is_no_row_of_numbers_for_every_item_is_refused(vectors):
    with pytest.raises(DataError, match="one row of numbers"):
        check_unit(vectors)


def test_more_or_fewer_vectors_than_items_are_refused():
    with pytest.raises(DataError, match="1 items with 2 vectors"):
        upserts([SHOE], unit(2), HASH)


ODD = {
    "title": [5, b"a", ["a"], float("nan")],
    "text": [5],
    "product_id": [7],
    "source": [True],
    "image": ["text", 5, [1]],
    "category": ["Shoes", 5, [None], [5], [["Shoes"]], {"a": 1}, object()],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_a_field_of_another_type_is_refused_and_named(name, value):
    with pytest.raises(SchemaError, match=f"an item's {name} is"):
        upserts([changed(**{name: value})], unit(1), HASH)
    with pytest.raises(SchemaError, match=f"an item's {name} is"):
        content_hash(changed(**{name: value}))


@pytest.mark.parametrize("fields", [{"title": "\ud800"}, {"category": ["\ud800"]}, {"attributes": {"a": "\ud800"}}])
def test_half_a_character_is_refused_in_every_field(fields):
    with pytest.raises(DataError, match="not valid Unicode"):
        upserts([changed(**fields)], unit(1), HASH)


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": {"b": 1}},
        {"a": [1]},
        {"a": None},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 10**400},
        {"a": np.arange(2)},
        {1: "a"},
        {1: "a", "b": 2},
        ["a"],
        5,
        0,
        np.arange(2),
        "",
        "a",
        "[1]",
        "0",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": {"b": 1}}',
        "[" * 100_000,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_attributes_are_flat_and_finite_or_refused(attributes):
    with pytest.raises(DataError, match="attribute"):
        encode_attributes(attributes)


@pytest.mark.parametrize("attributes", [None, {}, "{}", "null"])
def test_no_attributes_are_null(attributes):
    assert encode_attributes(attributes) is None


def test_attributes_are_canonical_json():
    assert encode_attributes({"ü": "é", "a": 1.5, "b": False}) == '{"a": 1.5, "b": false, "ü": "é"}'
