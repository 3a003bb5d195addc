"""Filters return the items that meet them; invalid ones are rejected by name."""

import contextlib
import json
import operator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import DataError
from galleria.index.columns import join_columns
from galleria.index.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, read_filter
from tests.index.builds import columns
from tests.soak import SOAK

SHOP: list[dict[str, Any]] = [
    {
        "id": "boot",
        "title": "Red boot",
        "product_id": "p1",
        "source": "shop",
        "category": ["Shoes", "Boots"],
        "attributes": {"price": 20, "brand": "Acme", "sale": True},
    },
    {"id": "shoe", "category": ["Shoes"], "attributes": {"price": 35.5, "brand": "Emca", "sale": False}},
    {"id": "box", "category": ["Shoeboxes"], "attributes": {"price": "20", "brand": "acme", "sale": 1}},
    {"id": "gift", "source": ""},
]


def matching_ids(conditions: Any, rows: list[dict[str, Any]] = SHOP) -> list[str]:
    mask = read_filter(conditions).mask(columns(rows))
    return [row["id"] for row, yes in zip(rows, mask, strict=True) if yes]


EXAMPLES = [
    ({"id": "shoe"}, ["shoe"]),
    ({"title": "Red boot"}, ["boot"]),
    ({"product_id": {"$in": ["p1", "p2"]}}, ["boot"]),
    ({"source": ""}, ["gift"]),
    ({"brand": "Acme"}, ["boot"]),
    ({"brand": {"$eq": "Acme"}}, ["boot"]),
    ({"brand": {"$ne": "Acme"}}, ["shoe", "box", "gift"]),
    ({"brand": {"$in": ["Acme", "Emca", "none"]}}, ["boot", "shoe"]),
    ({"brand": {"$nin": ["Acme", "Emca"]}}, ["box", "gift"]),
    ({"brand": {"$prefix": "Ac"}}, ["boot"]),
    ({"brand": {"$prefix": ""}}, ["boot", "shoe", "box"]),
    ({"brand": {"$gt": "Acme"}}, ["shoe", "box"]),
    ({"brand": {"$gte": "Acme", "$lt": "Emca"}}, ["boot"]),
    ({"price": {"$gt": 20}}, ["shoe"]),
    ({"price": {"$gte": 20}}, ["boot", "shoe"]),
    ({"price": {"$lt": 35.5}}, ["boot"]),
    ({"price": {"$lte": 35.5}}, ["boot", "shoe"]),
    ({"price": {"$gte": 20, "$lt": 30}}, ["boot"]),
    ({"price": 20.0}, ["boot"]),
    ({"price": "20"}, ["box"]),
    ({"price": {"$in": [35.5, "20", True]}}, ["shoe", "box"]),
    ({"price": {"$nin": [35.5, "20", True]}}, ["boot", "gift"]),
    ({"sale": True}, ["boot"]),
    ({"sale": False}, ["shoe"]),
    ({"sale": 1}, ["box"]),
    ({"sale": "true"}, []),
    ({"category": ["Shoes"]}, ["shoe"]),
    ({"category": "Shoes"}, ["shoe"]),
    ({"category": {"$ne": ["Shoes"]}}, ["boot", "box", "gift"]),
    ({"category": {"$in": [["Shoes"], ["Shoes", "Boots"]]}}, ["boot", "shoe"]),
    ({"category": {"$nin": [["Shoes"], ["Shoes", "Boots"]]}}, ["box", "gift"]),
    ({"category": {"$prefix": ["Shoes"]}}, ["boot", "shoe"]),
    ({"category": {"$prefix": "Shoe"}}, []),
    ({"category": {"$prefix": ["Shoes", "Boot"]}}, []),
    ({"category": {"$prefix": ["Shoes", "Boots", "High"]}}, []),
    ({"price": {"$exists": True}}, ["boot", "shoe", "box"]),
    ({"price": {"$exists": False}}, ["gift"]),
    ({"price": {"$exists": True, "$ne": 20}}, ["shoe", "box"]),
    ({"colour": {"$exists": True}}, []),
    ({"colour": {"$exists": False}}, ["boot", "shoe", "box", "gift"]),
    ({"id": {"$exists": True}}, ["boot", "shoe", "box", "gift"]),
    ({"title": {"$exists": True}}, ["boot"]),
    ({"source": {"$exists": True}}, ["boot", "gift"]),
    ({"category": {"$exists": False}}, ["gift"]),
    ({"$not": {"category": {"$exists": True, "$prefix": "Shoes"}}}, ["box", "gift"]),
    ({"colour": "red"}, []),
    ({"colour": {"$ne": "red"}}, ["boot", "shoe", "box", "gift"]),
    ({"colour": {"$lt": 5}}, []),
    ({"$not": {"brand": "Acme"}}, ["shoe", "box", "gift"]),
    ({"$and": [{"sale": True}, {"price": {"$lt": 30}}]}, ["boot"]),
    ({"$or": [{"id": "gift"}, {"price": {"$gt": 30}}]}, ["shoe", "gift"]),
    ({"$or": [{"id": "gift"}, {"$not": {"category": {"$prefix": "Shoes"}}}], "source": ""}, ["gift"]),
    ({"sale": True, "price": 35.5}, []),
]


@pytest.mark.parametrize(("conditions", "expected"), EXAMPLES, ids=json.dumps)
def test_filter_returns_expected_items(conditions, expected):
    assert matching_ids(conditions) == expected


@pytest.mark.parametrize(("conditions", "expected"), EXAMPLES, ids=json.dumps)
def test_filter_reads_texts_of_older_index(conditions, expected):
    """Indexes of 0.1 hold texts with 32-bit offsets."""
    table = columns(SHOP)
    older = table.cast(
        pa.schema(
            [field.with_type(pa.string()) if field.type == pa.large_string() else field for field in table.schema]
        )
    )
    mask = read_filter(conditions).mask(older)

    assert [row["id"] for row, yes in zip(SHOP, mask, strict=True) if yes] == expected


def test_texts_of_a_shard_may_be_larger_than_2_gib():
    part = columns([{"id": "a", "title": "x" * (1 << 26)}, {"id": "b", "title": "y"}])

    copies = 33 if SOAK > 1 else 2
    joined = join_columns([part] * copies)

    assert joined["title"].num_chunks == 1
    assert not any(pa.types.is_string(kind) for kind in joined.schema.types), "its offsets have 32 bits"
    assert read_filter({"title": "y"}).mask(joined).sum() == copies


def test_category_prefix_compares_full_names():
    rows = [{"id": "AB", "category": ["AB"]}, {"id": "A B", "category": ["A", "B"]}, {"id": "A", "category": ["A"]}]

    assert matching_ids({"category": {"$prefix": ["A"]}}, rows) == ["A B", "A"]


def test_category_may_contain_separator():
    rows = [{"id": "one", "category": ["A\x1fB"]}, {"id": "two", "category": ["A", "B"]}]

    assert matching_ids({"category": ["A", "B"]}, rows) == ["two"]
    assert matching_ids({"category": {"$prefix": ["A"]}}, rows) == ["two"]
    assert matching_ids({"category": ["A\x1fB"]}, rows) == ["one"]


def test_values_of_other_types_differ():
    rows = [{"id": name, "attributes": {"a": value}} for name, value in (("1", 1), ("text", "1"), ("true", True))]

    assert matching_ids({"a": 1}, rows) == matching_ids({"a": 1.0}, rows) == ["1"]
    assert matching_ids({"a": "1"}, rows) == ["text"]
    assert matching_ids({"a": True}, rows) == ["true"]


def test_minus_zero_equals_zero():
    rows = [{"id": "minus", "attributes": {"a": -0.0}}, {"id": "plus", "attributes": {"a": 0}}]

    for value in (0, -0.0, {"$in": [0, 1]}, {"$in": [-0.0, 1]}):
        assert matching_ids({"a": value}, rows) == ["minus", "plus"]


@pytest.mark.parametrize(
    ("value", "equal", "less"),
    [
        (2**53 + 1, ["odd"], ["even", "float", "half"]),
        (2**53, ["even", "float"], ["half"]),
        (2.0**53, ["even", "float"], ["half"]),
        (2**53 + 3, [], ["odd", "even", "float", "half"]),
        (2.5, ["half"], []),
        (1e300, [], ["odd", "even", "float", "half"]),
        (-1e300, [], []),
    ],
)
def test_numbers_are_compared_exactly(value, equal, less):
    numbers = {"odd": 2**53 + 1, "even": 2**53, "float": 2.0**53, "half": 2.5}
    rows = [{"id": name, "attributes": {"a": number}} for name, number in numbers.items()]
    rest = [name for name in numbers if name not in equal]

    assert matching_ids({"a": value}, rows) == matching_ids({"a": {"$in": [value, -1]}}, rows) == equal
    assert matching_ids({"a": {"$ne": value}}, rows) == rest
    assert matching_ids({"a": {"$lt": value}}, rows) == less
    assert matching_ids({"a": {"$gte": value}}, rows) == [name for name in numbers if name not in less]


def test_numbers_of_older_index_are_found():
    """Indexes of 0.1 hold all numbers as floats."""
    table = pa.table({"id": ["a", "b"], "number:price": pa.array([20.0, float(10**17 + 1)])})

    assert read_filter({"price": 20}).mask(table).tolist() == [True, False]
    assert read_filter({"price": 10**17 + 1}).mask(table).tolist() == [False, True]
    assert read_filter({"price": {"$in": [10**17 + 1, 5]}}).mask(table).tolist() == [False, True]
    assert read_filter({"price": {"$gt": 20}}).mask(table).tolist() == [False, True]


def test_huge_number_spares_other_items():
    rows = [{"id": "huge", "attributes": {"a": 10**400, "b": 1}}, {"id": "small", "attributes": {"a": 2}}]
    large = [{"id": "large", "attributes": {"a": 10**30}}, {"id": "small", "attributes": {"a": 2}}]

    assert matching_ids({"a": {"$gt": 5}}, large) == ["large"]
    assert matching_ids({"a": {"$gt": 1}}, rows) == ["small"]
    assert matching_ids({"b": 1}, rows) == ["huge"]


def test_values_are_never_evaluated():
    words = ["__import__('os').system('false')", "{{7*7}}", "'; drop table items; --", "%s%n", ".*", "$prefix"]
    rows = [{"id": word, "attributes": {word: word}} for word in words]

    for word in words:
        assert matching_ids({"id": word}, rows) == [word]
        assert matching_ids({"id": {"$prefix": word}}, rows) == [word]
        if not word.startswith("$"):
            assert matching_ids({word: word}, rows) == [word]


def test_empty_columns_match_nothing():
    assert matching_ids({"price": {"$ne": 1}}, []) == []
    assert matching_ids({"category": "A"}, [{"id": "bare"}]) == []


def test_joined_tables_have_joined_masks():
    joined = read_filter({"$or": [{"a": 1}, {"b": "x"}, {"$not": {"c": True}}]})
    parts = [
        columns([{"id": "1", "attributes": {"a": 1, "c": True}}]),
        columns([{"id": "2", "attributes": {"b": "x"}}]),
    ]
    parts.append(columns([{"id": "3", "attributes": {"c": True}}]))

    assert joined.mask(join_columns(parts)).tolist() == [True, True, False]
    assert [joined.mask(part).tolist() for part in parts] == [[True], [True], [False]]


def test_text_is_equal_for_equal_filters():
    assert read_filter({"a": 1, "b": 2}).text == read_filter({"b": 2, "a": 1}).text
    assert len({read_filter({"a": value}).text for value in (1, 1.5, "1", True, {"$ne": 1})}) == 5


def nested(depth: int) -> Any:
    return {"a": 1} if depth == 1 else {"$not": nested(depth - 1)}


BAD = [
    (None, "None"),
    ([], r"\[\]"),
    ({}, "{}"),
    ("price > 20", "price > 20"),
    ({"price": {"$gtt": 1}}, r"'\$gtt' of 'price'"),
    ({"price": {"gt": 1}}, "'gt' of 'price'"),
    ({"price": {}}, "'price' has no condition"),
    ({"price": None}, "'price' is compared with None"),
    ({"price": [1]}, r"'price' is compared with \[1\]"),
    ({"price": float("nan")}, "'price' is compared with nan"),
    ({"price": {"$lt": float("inf")}}, "'price' is compared with inf"),
    ({"price": {"$in": [1, float("nan")]}}, "'price' is compared with nan"),
    ({"price": 10**400}, "'price' is compared with 1000"),
    ({"price": 2**63}, "'price' is compared with 9223372036854775808: .* -9223372036854775808 to 9223372036854775807"),
    ({"price": {"$in": [1, -(2**63) - 1]}}, "'price' is compared with -9223372036854775809"),
    ({"price": {"$lt": 10**30}}, "'price' is compared with 1000000000000000000000000000000"),
    ({"price": {"$gt": True}}, r"'price' \$gt compares with True"),
    ({"price": {"$in": []}}, r"'price' \$in takes a list"),
    ({"price": {"$in": "20"}}, r"'price' \$in takes a list of 1 to 1000 values, not '20'"),
    ({"price": {"$nin": list(range(MAX_VALUES + 1))}}, r"'price' \$in takes a list"),
    ({"price": {"$prefix": 2}}, r"'price' \$prefix takes a text, not 2"),
    ({"price": {"$exists": 1}}, r"'price' \$exists takes true or false, not 1"),
    ({"category": {"$exists": None}}, r"'category' \$exists takes true or false, not None"),
    ({"brand": None}, r"write {\"\$exists\": false}"),
    ({"brand": "\ud800"}, "'brand' is compared with"),
    ({"brand": {"$prefix": "\ud800"}}, r"'brand' \$prefix takes a text"),
    ({"id": 5}, "'id' is a text, and is compared with 5"),
    ({"title": {"$lt": 5}}, "'title' is a text"),
    ({"category": 5}, "a category is a list of names from the root, not 5"),
    ({"category": []}, "a category is a list of names"),
    ({"category": ["A", 5]}, "a category is a list of names"),
    ({"category": ["\ud800"]}, "a category is a list of names"),
    ({"category": {"$in": "A"}}, r"'category' takes .* not \$in"),
    ({"category": {"$in": []}}, r"'category' takes .* not \$in"),
    ({"category": {"$gt": "A"}}, r"'category' takes .* not \$gt"),
    ({"category": {"$prefix": None}}, "a category is a list of names from the root, not None"),
    ({"$and": {"a": 1}}, r"\$and takes a list"),
    ({"$or": []}, r"\$or takes a list"),
    ({"$or": [{}]}, "{}"),
    ({"$not": [{"a": 1}]}, r"\[{'a': 1}\]"),
    ({"$nor": [{"a": 1}]}, r"'\$nor' is not a valid condition"),
    ({"$where": "sleep(1)"}, r"'\$where' is not a valid condition"),
    (nested(MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
    ({f"a{number}": 1 for number in range(MAX_CONDITIONS + 1)}, f"more than {MAX_CONDITIONS}"),
    ({"$or": [{"a": number} for number in range(MAX_CONDITIONS)]}, f"more than {MAX_CONDITIONS}"),
    ({"$and": [{"a": {"$gt": 1, "$lt": 9}}] * (MAX_CONDITIONS // 2)}, f"more than {MAX_CONDITIONS}"),
]


@pytest.mark.parametrize(("bad", "named"), BAD, ids=[named for _, named in BAD])
def test_invalid_filter_names_value(bad, named):
    with pytest.raises(DataError, match=rf"filter: .*{named}"):
        read_filter(bad)


def test_filters_at_limits_are_accepted():
    assert matching_ids(nested(MAX_DEPTH)) == ["boot", "shoe", "box", "gift"]  # an odd number of times not
    assert matching_ids({f"a{number}": 1 for number in range(MAX_CONDITIONS)}) == []
    assert matching_ids({"price": {"$in": list(range(MAX_VALUES))}}) == ["boot"]


def test_deep_json_is_rejected():
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, {"a": deep}, {"a": {"$in": deep}}, {"$or": deep}, {"category": deep}):
        with pytest.raises(DataError, match="filter: "):
            read_filter(value)


LARGE = [2**53, 2**53 + 1, 2.0**53, -(2**62) - 1, -(2.0**62), 2**63 - 1, -(2**63), 2.0**63, -(2.0**63), -1e300]
VALUES = st.sampled_from(["", "a", "b", "ab", "Ä", "1", 0, 1, -1, 2.5, 1.0, -0.5, True, False, *LARGE])
PATHS = st.lists(st.sampled_from(["a", "ab", "b"]), min_size=1, max_size=3)
TEXTS = st.sampled_from(["", "a", "b", "ab", "1"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS},
        optional={
            "title": st.none() | TEXTS,
            "category": st.none() | PATHS,
            "attributes": st.dictionaries(st.sampled_from(["x", "y"]), VALUES),
        },
    ),
    max_size=8,
)


def field_conditions(values: Any, ordered: Any) -> Any:
    return (
        values
        | st.fixed_dictionaries({}, optional={"$eq": values, "$ne": values}).filter(bool)
        | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(values, min_size=1, max_size=4), min_size=1)
        | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered, min_size=1)
        | st.fixed_dictionaries({"$prefix": TEXTS})
        | st.fixed_dictionaries({"$exists": st.booleans()})
    )


NUMBERS = VALUES.filter(lambda value: not isinstance(value, bool))
LEAVES = (
    st.dictionaries(st.sampled_from(["id", "title"]), field_conditions(TEXTS, TEXTS), min_size=1)
    | st.dictionaries(st.sampled_from(["x", "y", "z"]), field_conditions(VALUES, NUMBERS), min_size=1)
    | st.fixed_dictionaries({"category": PATHS | st.fixed_dictionaries({"$prefix": PATHS})})
    | st.fixed_dictionaries({"category": st.fixed_dictionaries({"$exists": st.booleans()})})
    | st.fixed_dictionaries({"category": st.dictionaries(st.sampled_from(["$eq", "$ne"]), PATHS, min_size=1)})
    | st.fixed_dictionaries(
        {"category": st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(PATHS, min_size=1), min_size=1)}
    )
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1)
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=6,
)


def kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def meets(row: dict[str, Any], conditions: dict[str, Any]) -> bool:
    """Return whether a row meets a filter, in plain Python."""
    return all(meets_one(row, name, operand) for name, operand in conditions.items())


def meets_one(row: dict[str, Any], name: str, operand: Any) -> bool:
    if name == "$not":
        return not meets(row, operand)
    if name in ("$and", "$or"):
        return (all if name == "$and" else any)(meets(row, part) for part in operand)
    value = row.get(name) if name in ("id", "title", "category") else row.get("attributes", {}).get(name)
    operators = operand if isinstance(operand, dict) else {"$eq": operand}
    return all(compares(value, word, other) for word, other in operators.items())


def compares(value: Any, word: str, other: Any) -> bool:
    if word in ("$ne", "$nin"):
        return not compares(value, {"$ne": "$eq", "$nin": "$in"}[word], other)
    if value is None or word == "$exists":
        return word == "$exists" and (value is not None) is other
    if word == "$in":
        return any(compares(value, "$eq", part) for part in other)
    if kind(value) is not kind(other):
        return False
    if word == "$prefix":
        return value[: len(other)] == other
    words = {"$eq": operator.eq, "$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
    return words[word](value, other)


@settings(deadline=None, max_examples=100 * SOAK, derandomize=True)
@given(rows=ROWS, conditions=FILTERS)
def test_filter_matches_plain_python(rows, conditions):
    assert read_filter(conditions).mask(columns(rows)).tolist() == [meets(row, conditions) for row in rows]


WORDS = st.sampled_from(
    ["$and", "$or", "$not", "$in", "$eq", "$prefix", "$exists", "$gt", "category", "id", "price", ""]
)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=4)
WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.just(10**310),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | ANY_TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100 * SOAK, derandomize=True)
@given(wild=WILD)
def test_random_json_raises_only_data_error(wild):
    with contextlib.suppress(DataError):
        assert read_filter(wild).mask(columns(SHOP)).shape == (4,)


@settings(deadline=None, max_examples=40 * SOAK, derandomize=True)
@given(
    value=st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.booleans()
)
def test_attribute_value_equals_itself(value):
    rows = [{"id": "this", "attributes": {"a": value}}, {"id": "none"}]

    assert matching_ids({"a": value}, rows) == matching_ids({"a": {"$in": [value, "other"]}}, rows) == ["this"]
