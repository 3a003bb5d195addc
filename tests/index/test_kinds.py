"""The kind of an index follows from its size, memory limit and target recall; its recall is measured."""

import faiss
import numpy as np
import pytest
from pydantic import ValidationError

from galleria.errors import ConfigurationError
from galleria.index.kinds import (
    CENTRES,
    EFFORTS,
    EXACT_BELOW,
    KINDS,
    Plan,
    build,
    is_of,
    lists_of,
    pieces,
    search,
    settings,
    size,
)
from tests.index.builds import clustered, unit


@pytest.fixture(scope="module")
def vectors_and_queries() -> tuple[np.ndarray, np.ndarray]:
    drawn = clustered(2000, 16)
    return drawn[:1200], drawn[1200:]


@pytest.fixture(scope="module")
def vectors(vectors_and_queries) -> np.ndarray:
    return vectors_and_queries[0]


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return clustered(EXACT_BELOW, 8)


@pytest.fixture(scope="module")
def built(vectors):
    return {kind: build(vectors, Plan(kind=kind)) for kind in KINDS}


def recall(index, spec, vectors, queries) -> float:
    """Return the recall@10 of a search."""
    exact = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    _, positions = search(index, queries, 10, settings(spec.kind, spec.effort))
    return float(np.mean([len(set(row) & set(right)) / 10 for row, right in zip(positions, exact, strict=True)]))


def test_size_of_a_thousand_vectors():
    assert lists_of(1000) == 15 and pieces(128) == 32
    assert {kind: size(kind, 1000, 128) for kind in KINDS} == {
        "Flat": 1000 * 512,
        "HNSW32": 1000 * (512 + 64 * 4 + 16),
        "IVF,Flat": 1000 * (512 + 8) + 15 * 512,
        "IVF,SQ8": 1000 * (128 + 8) + (15 + 2) * 512,
        "IVF,PQ": 1000 * (32 + 8) + (15 + 256) * 512,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_size_estimates_file_size(built, kind, tmp_path):
    index, spec = built[kind]
    faiss.write_index(index, str(tmp_path / "index"))

    assert spec.bytes == pytest.approx((tmp_path / "index").stat().st_size, rel=0.03, abs=1000)


@pytest.mark.parametrize(("count", "lists"), [(0, 1), (1, 1), (63, 1), (128, 2), (10_000, 156), (1_000_000, 4000)])
def test_lists_grow_with_root_of_count(count, lists):
    assert lists_of(count) == lists


@pytest.mark.parametrize(("dimension", "parts"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (10, 2), (15, 3), (512, 128)])
def test_pieces_divide_a_vector(dimension, parts):
    assert pieces(dimension) == parts and dimension % parts == 0


def test_few_vectors_build_flat(many):
    index, spec = build(many[:-1], Plan())

    assert (spec.kind, spec.effort, spec.recall, spec.bytes) == ("Flat", 0, 1.0, 9999 * 32)
    assert spec.reason == "9,999 vectors are fewer than 10,000: an exact scan is fast"
    assert index.ntotal == 9999


def test_many_vectors_build_hnsw(many):
    index, spec = build(many, Plan())

    assert is_of(index, "HNSW32") and spec.kind == "HNSW32" and spec.recall >= 0.99
    assert spec.reason == "the fastest kind for 10,000 × 8 within any memory"


@pytest.mark.parametrize(("larger", "kind"), [("HNSW32", "IVF,Flat"), ("IVF,Flat", "IVF,SQ8"), ("IVF,SQ8", "IVF,PQ")])
def test_memory_limit_selects_smaller_kind(many, larger, kind):
    memory = size(larger, *many.shape) - 1
    index, spec = build(many, Plan(memory=memory, target_recall=0.5))

    assert spec.kind == kind and is_of(index, kind) and spec.bytes <= memory
    assert f"within {memory:,} bytes" in spec.reason


def test_memory_limit_compresses_few_vectors(vectors):
    assert build(vectors, Plan(memory=size("Flat", *vectors.shape) - 1))[1].kind == "IVF,SQ8"


def test_too_little_memory_names_smallest_kind(vectors):
    smallest = min(size(kind, *vectors.shape) for kind in KINDS)

    with pytest.raises(ConfigurationError, match=rf"fits into {smallest - 1:,} bytes: .* needs {smallest:,}; raise"):
        build(vectors, Plan(memory=smallest - 1))
    assert build(vectors, Plan(memory=smallest))[1].bytes == smallest


def test_requested_kind_must_fit_memory(vectors):
    with pytest.raises(ConfigurationError, match="a HNSW32 index of 1,200 × 16 needs 403,200 bytes, 403,199 are"):
        build(vectors, Plan(kind="HNSW32", memory=403_199))


def test_pq_rejects_too_few_vectors():
    with pytest.raises(ConfigurationError, match="at least 256 vectors, there are 255: choose another kind"):
        build(unit(CENTRES - 1, 8), Plan(kind="IVF,PQ"))


@pytest.mark.parametrize("odd", [{"target_recall": 0}, {"target_recall": 1.1}, {"memory": -1}, {"kind": "LSH"}])
def test_plan_rejects_invalid_values(odd):
    with pytest.raises(ValidationError):
        Plan(**odd)


@pytest.mark.parametrize("kind", KINDS)
def test_build_uses_requested_kind(built, vectors, kind):
    index, spec = built[kind]

    assert is_of(index, kind) and [other for other in KINDS if is_of(index, other)] == [kind]
    assert (index.d, index.ntotal, index.metric_type) == (16, len(vectors), faiss.METRIC_INNER_PRODUCT)
    assert (spec.kind, spec.reason.partition(";")[0]) == (kind, "requested")


@pytest.mark.parametrize("kind", KINDS)
def test_recall_holds_for_other_queries(built, vectors_and_queries, kind):
    index, spec = built[kind]

    assert recall(index, spec, *vectors_and_queries) == pytest.approx(spec.recall, abs=0.05)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF,Flat"])
def test_uncompressed_kinds_reach_recall(built, kind):
    assert built[kind][1].recall >= 0.99
    assert "below" not in built[kind][1].reason


def test_missed_recall_is_in_reason(built):
    spec = built["IVF,PQ"][1]

    assert spec.recall < 0.99
    assert f"recall@10 {spec.recall:.3f} is below the target of 0.99" in spec.reason


def test_lower_recall_takes_less_effort(vectors):
    little, much = (build(vectors, Plan(kind="IVF,Flat", target_recall=target))[1] for target in (0.3, 1))

    assert little.effort < much.effort
    assert 0.3 <= little.recall < much.recall == 1


def test_build_is_deterministic(vectors, built):
    assert build(vectors, Plan(kind="IVF,SQ8"))[1] == built["IVF,SQ8"][1]


def test_recall_counts_equal_neighbours():
    vectors = np.repeat(unit(40, 16), 30, axis=0)  # thirty are equally near: any ten may be returned

    spec = build(vectors, Plan(kind="IVF,Flat"))[1]

    assert spec.recall >= 0.99 and spec.effort < max(EFFORTS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_vectors_build_empty_flat(kind):
    index, spec = build(np.zeros((0, 8), np.float32), Plan(kind=kind))

    assert (index.ntotal, spec.kind, spec.bytes) == (0, "Flat", 0)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF,Flat", "IVF,SQ8"])
def test_one_vector_builds_any_kind(kind):
    index, spec = build(unit(1, 8), Plan(kind=kind))

    assert index.ntotal == 1 and spec.recall == 1
