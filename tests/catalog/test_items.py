"""An item becomes a row of the table, or is rejected with the reason."""

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


def test_item_key_is_stable():
    assert [item_key("a"), item_key("鞋")] == [3405396810240292928, 14092700624335495529]


@pytest.mark.parametrize("name", ["a", "鞋", "👟", "../a", "'; drop", "x" * MAX_ID_BYTES, "鞋" * 170])
def test_item_key_accepts_512_bytes(name):
    assert 0 <= item_key(name) < 2**64


@pytest.mark.parametrize("name", ["", "x" * (MAX_ID_BYTES + 1), "鞋" * 171, "\ud800", "a\udfffb"])
def test_item_key_rejects_invalid_ids(name):
    with pytest.raises(DataError, match="id"):
        item_key(name)


@pytest.mark.parametrize("name", [5, None, b"a", ["a"]])
def test_ids_other_than_text_are_rejected(name):
    with pytest.raises(DataError, match="is not text"):
        item_key(name)
    with pytest.raises(DataError, match="is not text"):
        upserts([{"id": name}], unit(1), HASH)
    with pytest.raises(DataError, match="is not text"):
        deletions([name], table_schema(3, HASH))


def test_upserts_rejects_missing_id():
    with pytest.raises(DataError, match="1 to 512 bytes"):
        upserts([{"title": "a"}], unit(1), HASH)


def test_content_hash_is_equal_for_equal_items():
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


def test_content_hash_ignores_empty_fields():
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
def test_content_hash_covers_every_field(fields):
    assert content_hash(changed(**fields)) != content_hash(SHOE)


def test_content_hash_covers_own_vector():
    one, other = np.eye(2, dtype=np.float32)
    hashes = {content_hash(SHOE), content_hash(SHOE | {"vector": one}), content_hash(SHOE | {"vector": other})}
    assert len(hashes) == 3


def test_upserts_returns_all_columns():
    row = upserts([SHOE], at_angle(0), HASH).to_pylist()[0]

    assert row == SHOE | {
        "key": item_key("shoe"),
        "content": content_hash(SHOE),
        "deleted": False,
        "settled": False,
        "attributes": '{"colour": "red", "new": true, "price": 20}',
        "embedding": [1, 0, 0],
    }


def test_deletions_have_only_keys():
    batch = deletions(["a", "鞋"], table_schema(3, HASH))

    assert batch["deleted"].to_pylist() == [True, True]
    assert batch["key"].to_pylist() == [item_key("a"), item_key("鞋")]
    assert batch["embedding"].null_count == batch["title"].null_count == 2


def test_upserts_schema_names_bundle():
    assert upserts([SHOE], unit(1), HASH).schema.metadata[BUNDLE_HASH] == HASH.encode()


def test_no_items_make_no_rows():
    assert len(upserts([], unit(0), HASH)) == len(deletions([], table_schema(3, HASH))) == 0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_upserts_converts_vectors_to_float32(kind):
    vectors = np.array([[0, 1, 0], [1, 0, 0]], kind)[::-1]

    batch = upserts([{"id": "a"}, {"id": "b"}], vectors, HASH)

    assert batch["embedding"].to_pylist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 0.9, 1.1, 1e30])
def test_check_unit_names_first_invalid_row(value):
    vectors = unit(9)
    vectors[[4, 7]] = (value, 0, 0)

    with pytest.raises(DataError, match=r"2 vectors are not of unit length \(first: row 4\)"):
        check_unit(vectors)


@pytest.mark.parametrize("vectors", [np.ones(3), np.ones((1, 1, 3)), np.array([[1, None]]), np.array([["a"]])])
def test_check_unit_rejects_other_shapes(vectors):
    with pytest.raises(DataError, match="one row of numbers"):
        check_unit(vectors)


def test_upserts_rejects_wrong_vector_count():
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
def test_field_of_wrong_type_is_named(name, value):
    with pytest.raises(SchemaError, match=f"an item's {name} is"):
        upserts([changed(**{name: value})], unit(1), HASH)
    with pytest.raises(SchemaError, match=f"an item's {name} is"):
        content_hash(changed(**{name: value}))


@pytest.mark.parametrize("fields", [{"title": "\ud800"}, {"category": ["\ud800"]}, {"attributes": {"a": "\ud800"}}])
def test_upserts_rejects_lone_surrogates(fields):
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
def test_encode_attributes_rejects_invalid(attributes):
    with pytest.raises(DataError, match="attribute"):
        encode_attributes(attributes)


@pytest.mark.parametrize("attributes", [None, {}, "{}", "null"])
def test_encode_attributes_returns_none_for_empty(attributes):
    assert encode_attributes(attributes) is None


def test_encode_attributes_is_canonical():
    assert encode_attributes({"ü": "é", "a": 1.5, "b": False}) == '{"a": 1.5, "b": false, "ü": "é"}'
