"""A shard finds what brute force finds, or refuses to open."""

import json
import random
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import DataError, IndexDamagedError
from galleria.index.manifest import MANIFEST, sha256
from galleria.index.shard import VECTORS, Shard, write_shard

HASH = "b" * 64


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "shard"
    write_shard(folder, unit(50, 8), HASH, catalog_version=3)
    return folder


@pytest.fixture
def copied(written, tmp_path) -> Path:
    """A shard that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "shard"))


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(count=st.integers(1, 60), dimension=st.integers(1, 16), k=st.integers(1, 80), seed=st.integers(0, 99))
def test_search_equals_brute_force(tmp_path_factory, count, dimension, k, seed):
    folder = tmp_path_factory.mktemp("brute") / "shard"
    vectors, queries = unit(count, dimension, seed), unit(4, dimension, seed + 1000)
    write_shard(folder, vectors, HASH, 1)

    similarities, places = Shard(folder, HASH, 1).search(queries, k)

    exact = queries @ vectors.T
    assert similarities.shape == places.shape == (4, min(k, count))
    assert np.allclose(similarities, -np.sort(-exact, axis=1)[:, :k], atol=1e-5)
    assert np.allclose(np.take_along_axis(exact, places, 1), similarities, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in places.tolist())


def test_a_stored_vector_finds_itself_first(written):
    similarities, places = Shard(written, HASH, 3).search(unit(50, 8), 1)

    assert places[:, 0].tolist() == list(range(50))
    assert np.allclose(similarities, 1, atol=1e-5)


@pytest.mark.parametrize("length", [1e-30, 1e-3, 7, 1e30])
def test_the_length_of_a_query_does_not_matter(written, length):
    shard = Shard(written, HASH, 3)
    queries = unit(5, 8, seed=1)

    expected, places = shard.search(queries, 5)
    similarities, same_places = shard.search((queries * length).astype(np.float32), 5)

    assert np.array_equal(places, same_places)
    assert np.allclose(similarities, expected, atol=1e-5)


def test_no_query_has_no_answer(written):
    assert Shard(written, HASH, 3).search(np.zeros((0, 8), np.float32), 5)[0].shape == (0, 5)


@pytest.mark.parametrize("shape", [(1, 7), (1, 9), (8,), (1, 1, 8), (1, 0)])
def test_a_query_of_another_length_is_refused(written, shape):
    with pytest.raises(DataError, match="the index has 8"):
        Shard(written, HASH, 3).search(np.ones(shape, np.float32), 5)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_query_without_a_direction_is_refused(written, value):
    queries = unit(3, 8)
    queries[1] = 0
    queries[1, 0] = value

    with pytest.raises(DataError, match="zero or not finite"):
        Shard(written, HASH, 3).search(queries, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_result_is_refused(written, k):
    with pytest.raises(DataError, match=f"k={k}"):
        Shard(written, HASH, 3).search(unit(1, 8), k)


def test_an_index_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="no vector to index"):
        write_shard(tmp_path / "shard", np.zeros((0, 8), np.float32), HASH, 1)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 0.5])
def test_a_vector_that_is_not_of_unit_length_is_refused_and_its_row_named(tmp_path, value):
    vectors = unit(9, 8)
    vectors[4] = 0
    vectors[4, 0] = value

    with pytest.raises(DataError, match=r"1 vectors .*first: row 4"):
        write_shard(tmp_path / "shard", vectors, HASH, 1)


def test_writing_again_replaces_the_shard_whole(copied):
    (copied / "left over").write_text("x")

    manifest = write_shard(copied, unit(7, 4), HASH, catalog_version=4)

    assert Shard(copied, HASH, 4).manifest == manifest
    assert sorted(path.name for path in copied.iterdir()) == [MANIFEST, VECTORS]
    assert [path.name for path in copied.parent.iterdir()] == ["shard"]


def test_the_manifest_says_what_the_index_is(written):
    manifest = json.loads((written / MANIFEST).read_text())

    assert manifest == {
        "format": 1,
        "files": {VECTORS: sha256(written / VECTORS)},
        "kind": "Flat",
        "metric": "inner_product",
        "dimension": 8,
        "count": 50,
        "bundle_hash": HASH,
        "catalog_version": 3,
    }


def test_a_missing_index_says_how_to_make_one(tmp_path):
    with pytest.raises(IndexDamagedError, match="make one with 'galleria index'"):
        Shard(tmp_path / "none", HASH, 3)


def test_another_bundle_is_refused(written):
    with pytest.raises(IndexDamagedError, match=r"built with bundle bbbbbbbbbbbb, but .* is cccccccccccc"):
        Shard(written, "c" * 64, 3)


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_of_the_catalogue_is_refused(written, version):
    with pytest.raises(IndexDamagedError, match=f"version 3 of the product table, which is at version {version}"):
        Shard(written, HASH, version)


SKEWS = {
    "newer format": {"format": 2},
    "format zero": {"format": 0},
    "format of no number": {"format": "one"},
    "another metric": {"metric": "l2"},
    "dimension too small": {"dimension": 7},
    "dimension too large": {"dimension": 9},
    "count too small": {"count": 49},
    "count too large": {"count": 51},
    "negative count": {"count": -1},
    "no bundle": {"bundle_hash": ""},
    "another bundle": {"bundle_hash": "a" * 64},
    "an abbreviated bundle": {"bundle_hash": "b" * 12},
    "no catalogue version": {"catalog_version": None},
    "older catalogue": {"catalog_version": 2},
    "newer catalogue": {"catalog_version": 4},
    "no files": {"files": {}},
    "another file": {"files": {"other.faiss": "0" * 64}},
    "another digest": {"files": {VECTORS: "0" * 64}},
    "a file outside": {"files": {"../secret": "0" * 64}},
    "a nul in a name": {"files": {"a\0": "0" * 64}},
    "an unknown field": {"preprocessing": "other"},
}


@pytest.mark.parametrize("name", SKEWS)
def test_a_skew_between_index_and_manifest_is_refused(copied, name):
    edit(copied, **SKEWS[name])

    with pytest.raises(IndexDamagedError):
        Shard(copied, HASH, 3)


@pytest.mark.parametrize(
    "field", ["format", "files", "kind", "metric", "dimension", "count", "bundle_hash", "catalog_version"]
)
def test_a_manifest_without_one_of_its_fields_is_refused(copied, field):
    manifest = json.loads((copied / MANIFEST).read_text())
    del manifest[field]
    (copied / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(IndexDamagedError, match="cannot be read"):
        Shard(copied, HASH, 3)


def test_every_flipped_bit_and_every_cut_of_the_vectors_is_refused(copied):
    content = (copied / VECTORS).read_bytes()
    chance = random.Random(0)
    for _ in range(150):
        spoilt = bytearray(content)
        spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        for damaged in (bytes(spoilt), content[: chance.randrange(len(content))]):
            (copied / VECTORS).write_bytes(damaged)
            with pytest.raises(IndexDamagedError, match="missing or damaged: build it again"):
                Shard(copied, HASH, 3)


def test_a_damaged_manifest_is_refused_or_gives_the_same_answers(copied):
    content = (copied / MANIFEST).read_bytes()
    expected = Shard(copied, HASH, 3).search(unit(5, 8, seed=2), 5)
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(content)
        spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (copied / MANIFEST).write_bytes(spoilt)
        try:
            found = Shard(copied, HASH, 3).search(unit(5, 8, seed=2), 5)
        except IndexDamagedError:
            refused += 1
        else:
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert refused > 280  # what is left is in blanks and in the name of the kind


def signed(folder: Path) -> None:
    edit(folder, files={VECTORS: sha256(folder / VECTORS)})


@pytest.mark.parametrize("content", [b"", b"not faiss", b"IxFI" + b"\xff" * 60])
def test_a_signed_file_that_is_no_index_is_refused(copied, content):
    (copied / VECTORS).write_bytes(content)
    signed(copied)

    with pytest.raises(IndexDamagedError, match="is no FAISS index"):
        Shard(copied, HASH, 3)


def test_a_signed_index_of_another_metric_is_refused(copied):
    index = faiss.IndexFlatL2(8)
    index.add(unit(50, 8))
    faiss.write_index(index, str(copied / VECTORS))
    signed(copied)

    with pytest.raises(IndexDamagedError, match="does not fit its vectors"):
        Shard(copied, HASH, 3)


def test_a_link_that_leaves_the_folder_is_refused(copied):
    outside = copied.parent / "outside"
    (copied / VECTORS).rename(outside)
    (copied / VECTORS).symlink_to(outside)

    with pytest.raises(IndexDamagedError, match="outside the index's folder"):
        Shard(copied, HASH, 3)
