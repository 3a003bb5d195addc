"""JSON is bounded in the pieces in which it arrives, and long lists are built element by element."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.serving.http.json_scan import FILE_FIELDS, LONG_TEXT, MAX_DEPTH, JsonLimits, JsonScanner, build, parse
from galleria.serving.schemas.encoded import EncodedFile
from galleria.serving.schemas.problems import ProblemError

UNBOUNDED = JsonLimits(10**9, 10**9)

TEXTS = st.text(st.sampled_from('ab"\\,:[]{}\n é👟'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers(-9, 99) | st.floats(-1, 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(TEXTS, VALUES | st.lists(VALUES, max_size=6), max_size=4)


def scan(body: bytes, limits: JsonLimits = UNBOUNDED, size: int = 1 << 16, long_text: int = LONG_TEXT) -> JsonScanner:
    scanner = JsonScanner(limits, long_text)
    for start in range(0, len(body), size):
        scanner.feed(body[start : start + size])
    return scanner


def count(value: Any) -> int:
    """A container counts itself and its elements; a field counts its name and its value."""
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(count, value))
    if isinstance(value, dict):
        return 1 + max(0, 2 * len(value) - 1) + sum(map(count, value.values()))
    return 0


@settings(max_examples=150, deadline=None)
@given(BODIES, st.integers(1, 20), st.booleans())
def test_values_equal_those_of_a_parser(body, size, compact):
    text = json.dumps(body, ensure_ascii=compact, separators=(",", ":") if compact else (" , ", " : ")).encode()
    scanner = scan(text, size=size)
    assert scanner.values == 1 + count(body)
    assert build(text, scanner, "queries", 1000) == json.loads(text)
    assert [json.loads(text[start:end] or b"0") for start, end in scanner.items() if text[start:end].strip()] == [
        element for value in body.values() if isinstance(value, list) for element in value
    ]


def texts(value: Any, field: str = "") -> Any:
    """The value with the text of each file, which is in a field for files."""
    if isinstance(value, EncodedFile):
        assert field in FILE_FIELDS
        return value.text()
    if isinstance(value, list):
        return [texts(element, field) for element in value]
    if isinstance(value, dict):
        return {name: texts(element, name) for name, element in value.items()}
    return value


NAMED = st.dictionaries(st.sampled_from(["image", "data", "text"]), TEXTS | st.lists(TEXTS, max_size=3), max_size=3)


@settings(max_examples=150, deadline=None)
@given(NAMED | BODIES, st.integers(1, 9), st.integers(0, 4), st.booleans())
def test_long_texts_stay_in_the_body(body, size, long_text, compact):
    content = json.dumps(body, ensure_ascii=compact).encode()
    scanner = scan(content, size=size, long_text=long_text)
    for start, end in scanner.long_texts:
        assert content[start - 1 : start] == content[end : end + 1] == b'"'
        assert (
            content[start:end]
            == json.dumps(json.loads(content[start - 1 : end + 1]), ensure_ascii=False)[1:-1].encode()
        )
    assert texts(parse(content, scanner)) == texts(build(content, scanner, "queries", 1000)) == body


def test_only_files_stay_in_the_body():
    content = json.dumps({"image": "a" * 10, "text": "b" * 10, "data": ["c" * 10], "note": "d\\n" + "e" * 9}).encode()
    value = parse(content, scan(content, size=4, long_text=5))
    assert isinstance(value["image"], EncodedFile) and isinstance(value["data"][0], EncodedFile)
    assert (value["text"], value["note"]) == ("b" * 10, "d\\n" + "e" * 9)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 60, b'{"a": [1,]}', b'{"a": [,1]}', b'{"a": [1 2]}', b'{"a": [1}', b'{"a": [1', b'{"a": [{]}',
     b'{"a": ["x]}', b'{"a": [\\"1]}', b'{"a": ["\\"]}', b'{"a": [1]} 2', b'{"a": [1]]}', b'{"a": [tru]}', b"\xff",
     b'{"a": ["\xff"]}', b'{"a": ["\\ud800"]}'],
)  # fmt: skip
def test_malformed_list_is_rejected(body):
    with pytest.raises(ProblemError) as error:
        build(body, scan(body, size=1), "a", 1000)
    assert (error.value.status, error.value.kind) == (400, "malformed-request")


@pytest.mark.parametrize("body", [b"[]", b'[[{"a": 1}], []]', b"5", b'"a"', b"null"])
def test_other_values_are_left_to_validation(body):
    assert not isinstance(build(body, scan(body), "a", 1000), dict)


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (b'{"queries": [%s]}' % b",".join([b"{}"] * 50), JsonLimits(100, 100)),
        (b'{"queries": [{"filter": [%s]}]}' % b",".join([b"[]"] * 50), JsonLimits(1000, 100)),
        (b'{"queries": [%s, {"a": [%s]}]}' % (b",".join([b"{}"] * 99), b",".join([b"1"] * 99)), JsonLimits(1000, 99)),
        (b'{"queries": {%s}}' % b",".join(b'"%d": 1' % n for n in range(60)), JsonLimits(1000, 100)),
        (b"{%s}" % b",".join(b'"%d": 1' % n for n in range(60)), JsonLimits(1000, 100)),
        (b'{"a": 1, "queries": [%s' % (b"[" * 10 + b"1," * 200), JsonLimits(1000, 100)),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_too_many_values_are_rejected(body, limits, size):
    scan(body, JsonLimits(limits.values, 1000) if limits.values == 1000 else UNBOUNDED)
    with pytest.raises(ProblemError, match="more than") as error:
        scan(body, limits, size)
    assert error.value.status == 413


def test_many_small_items_are_accepted():
    body = b'{"queries": [%s]}' % b",".join([b'{"text": "a, b: [c]", "k": 3}'] * 1000)
    assert len(scan(body, JsonLimits(10_000, 10)).items()) == 1000


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":[{"b":['])
def test_deep_json_is_rejected(opening):
    depth = opening.count(b"[") + opening.count(b"{")
    scan(opening * (MAX_DEPTH // depth))
    with pytest.raises(ProblemError, match="nested deeper than 64") as error:
        scan(opening * (MAX_DEPTH // depth + 1))
    assert error.value.status == 400


def test_long_list_is_rejected_before_it_is_built():
    body = b'{"queries": [%s]}' % b",".join([b"[[]]"] * 200_000)
    scanner = scan(body)
    tracemalloc.start()
    with pytest.raises(ProblemError, match="queries: are 200000, over the limit of 1000"):
        build(body, scanner, "queries", 1000)
    assert tracemalloc.get_traced_memory()[1] < 60_000_000, "places of elements, and no lists"
    tracemalloc.stop()


@pytest.mark.parametrize("unit", [b"{},", b'"",', b"1,", b'{"a":{"b":[]}},', b'"\\"\\\\",'])
def test_rejection_takes_little_memory(unit):
    body = b'{"queries": [' + unit * (8_000_000 // len(unit))
    tracemalloc.start()
    with pytest.raises(ProblemError):
        scan(body, JsonLimits(100_000, 100_000))
    assert tracemalloc.get_traced_memory()[1] < 16_000_000
    tracemalloc.stop()
