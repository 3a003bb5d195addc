"""Builds are written atomically; a damaged or mismatched one is never opened."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import ConfigurationError, DataError, IndexDamagedError
from galleria.files import sha256
from galleria.index.base import MAX_BUILDS, Build, Vectors, open_build, write_build
from galleria.index.filters import read_filter
from galleria.index.kinds import KINDS, Plan
from galleria.index.manifest import BUILDS, CURRENT, MANIFEST, current_build
from galleria.index.shard import Shard
from tests.index.builds import COLOURS, HASH, base, items, unit, write
from tests.soak import SOAK

PAGE = 4096


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """Two builds of two shards; the second is in use."""
    folder = tmp_path_factory.mktemp("index")
    write(folder, count=300, version=6, seed=1)
    write(folder, count=300, version=7)
    return folder


@pytest.fixture
def copied(written, tmp_path) -> Path:
    """An index that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "index"))


@pytest.fixture(scope="module")
def spoilt(written, tmp_path_factory) -> Path:
    """An index whose pointer and manifest are spoilt again and again."""
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("spoilt") / "index"))


def other_build(folder: Path) -> Path:
    """Return the build that is not the current one."""
    return next(build for build in (folder / BUILDS).iterdir() if build != current_build(folder))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest, and have `current.json` match it, as someone who tampers with it would."""
    manifest = current_build(folder) / MANIFEST
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))
    sign(folder)


def sign(folder: Path) -> None:
    build = current_build(folder)
    (folder / CURRENT).write_text(json.dumps({"build": build.name, "manifest": sha256(build / MANIFEST)}))


def sign_files(folder: Path) -> None:
    build = current_build(folder)
    edit(folder, lambda manifest: manifest.update(files={name: sha256(build / name) for name in manifest["files"]}))


def answers(build: Build) -> list[Any]:
    return [Shard(part).search(unit(5, 8, seed=9), 7) for part in build.bases.values()]


def test_open_build_returns_written_items(written):
    build = open_build(written, HASH)

    assert (build.manifest.count, build.manifest.dimension, build.manifest.catalog_version) == (300, 8, 7)
    assert build.folder == current_build(written) and list(build.bases) == [0, 1]
    for number, part in build.bases.items():
        assert part.keys.tolist() == list(range(number, 300, 2))
        assert part.contents.tolist() == [key + 1 for key in part.keys.tolist()]
        assert part.index.reconstruct_n(0, 150).tolist() == unit(300, 8)[number::2].tolist()
        red = read_filter({"colour": "red"}).mask(part.columns)
        assert red.tolist() == [COLOURS[key % 4] == "red" for key in part.keys.tolist()]


def test_write_build_sorts_items(tmp_path):
    vectors = unit(9, 8)
    keys = [5, 3, 8, 1, 0, 7, 2, 6, 4]
    write_build(tmp_path, [items(keys, vectors)], Plan(), HASH, 1)

    opened = open_build(tmp_path, HASH).bases[0]

    assert opened.keys.tolist() == list(range(9))
    assert [hits[0].key for hits in Shard(opened).search(vectors, 1)] == keys
    assert read_filter({"number": {"$gte": 7}}).mask(opened.columns).tolist() == [False] * 7 + [True] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_open_build_matches_memory(tmp_path, kind):
    vectors = unit(600, 8)
    write_build(tmp_path, [items(range(600), vectors)], Plan(kind=kind), HASH, 1)

    opened, queries = Shard(open_build(tmp_path, HASH).bases[0]), unit(9, 8, seed=1)

    assert opened.search(queries, 10) == Shard(base(range(600), vectors, kind)).search(queries, 10)


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_hold_every_item_once(tmp_path, shards):
    manifest = write(tmp_path, count=20, shards=shards)

    bases = open_build(tmp_path, HASH).bases

    assert manifest.count == 20 and [shard.count for shard in manifest.shards] == [len(x.keys) for x in bases.values()]
    assert sorted(key for part in bases.values() for key in part.keys.tolist()) == list(range(20))


def test_shards_may_be_empty(tmp_path):
    write(tmp_path, count=2, shards=4)

    assert [len(part.keys) for part in open_build(tmp_path, HASH).bases.values()] == [1, 1, 0, 0]


def test_open_build_opens_given_shards(written):
    assert list(open_build(written, HASH, [1]).bases) == [1]


@pytest.mark.parametrize("number", [2, -1])
def test_open_build_rejects_missing_shard(written, number):
    with pytest.raises(IndexDamagedError, match=f"has 2 shards, there is no number {number}"):
        open_build(written, HASH, [number])


def test_open_build_outlives_newer_builds(tmp_path):
    write(tmp_path, version=1, seed=1)
    older = open_build(tmp_path, HASH)
    before = answers(older)
    for version in (2, 3, 4):
        write(tmp_path, version=version, seed=version)

    assert open_build(tmp_path, HASH).manifest.catalog_version == 4
    assert not older.folder.exists()  # its files are removed; open ones stay readable
    assert answers(older) == before != answers(open_build(tmp_path, HASH))


def test_write_build_keeps_two_builds(tmp_path):
    for version in range(1, 6):
        write(tmp_path, version=version)

    assert MAX_BUILDS == 2
    assert sorted(path.name[:9] for path in (tmp_path / BUILDS).iterdir()) == ["000000004", "000000005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [BUILDS, CURRENT]


def test_write_build_removes_abandoned(tmp_path):
    write(tmp_path, version=1)
    for name in (".000000001-young", ".000000001-old"):
        (tmp_path / BUILDS / name).mkdir()
    os.utime(tmp_path / BUILDS / ".000000001-old", (1, 1))

    write(tmp_path, version=2)

    names = sorted(path.name[:16] for path in (tmp_path / BUILDS).iterdir())
    assert names[0] == ".000000001-young"
    assert [name[:9] for name in names[1:]] == ["000000001", "000000002"]


def rejected_plan(folder: Path) -> None:
    write(folder, version=8, memory=1)


def columns_that_are_too_short(folder: Path) -> None:
    part = items(range(9), unit(9, 8))
    write_build(folder, [Vectors(part.keys, part.contents, part.vectors, part.columns[:5])], Plan(), HASH, 8)


def disk_that_rejects(folder: Path) -> None:
    (folder / BUILDS).rename(folder / "elsewhere")
    (folder / BUILDS).write_text("no folder")
    try:
        write(folder, version=8)
    finally:
        (folder / BUILDS).unlink()
        (folder / "elsewhere").rename(folder / BUILDS)


@pytest.mark.parametrize("fails", [rejected_plan, columns_that_are_too_short, disk_that_rejects])
def test_failed_build_changes_no_file(copied, fails):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    with pytest.raises((ConfigurationError, IndexError, OSError)):
        fails(copied)

    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    assert answers(open_build(copied, HASH)) is not None


def test_failed_first_build_leaves_no_index(tmp_path):
    with pytest.raises(ConfigurationError):
        write(tmp_path, memory=1)

    with pytest.raises(IndexDamagedError, match="there is no index"):
        open_build(tmp_path, HASH)
    assert list((tmp_path / BUILDS).iterdir()) == []


def test_write_build_rejects_no_shards(tmp_path):
    with pytest.raises(DataError, match="at least one shard"):
        write_build(tmp_path, [], Plan(), HASH, 1)


def test_write_build_rejects_vector_shapes(tmp_path):
    even, odd = items([0, 2], unit(2, 8)), items([1, 3], unit(2, 9))

    with pytest.raises(DataError, match=r"shard 1 has 2 keys and vectors \(2, 9\), shard 0 has vectors \(2, 8\)"):
        write_build(tmp_path, [even, odd], Plan(), HASH, 1)
    with pytest.raises(DataError, match=r"shard 0 has 2 keys and vectors \(3, 8\)"):
        write_build(tmp_path, [Vectors(even.keys, even.contents, unit(3, 8), even.columns)], Plan(), HASH, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [[[0, 1], [3]], [[0, 0], [1]]])
def test_write_build_rejects_misplaced_keys(tmp_path, keys):
    with pytest.raises(DataError, match="shard 0 of 2 has a key twice, or the key of another shard"):
        write_build(tmp_path, [items(part, unit(len(part), 8)) for part in keys], Plan(), HASH, 1)


def test_open_build_names_command_if_missing(tmp_path):
    with pytest.raises(IndexDamagedError, match="make one with 'galleria index build'"):
        open_build(tmp_path / "none", HASH)


# Damage: 600 files, in six ways.


def zeroed(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(0, len(content), PAGE)
    return content[:start] + bytes(len(content[start : start + PAGE])) + content[start + PAGE :]


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content.rstrip()))]


def flipped(content: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(content)
    spoilt[chance.randrange(len(content.rstrip()))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def longer(content: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(chance.randrange(1, 99))


def noise(content: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(len(content))


def emptied(content: bytes, chance: random.Random) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [zeroed, cut, flipped, longer, noise, emptied])
def test_open_build_rejects_damaged_files(copied, damage):
    """R11: no damaged file is read."""
    chance = random.Random(damage.__name__)
    files = [copied / CURRENT, *sorted(current_build(copied).iterdir())]
    assert len(files) == 6  # the pointer, the manifest, and two files of each shard
    for number in range(100):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(damage(content, chance))
        with pytest.raises(IndexDamagedError, match=": build it again"):
            open_build(copied, HASH)
        file.write_bytes(content)
    assert open_build(copied, HASH).manifest.count == 300


def test_open_build_rejects_swapped_files(copied):
    files = sorted(file for build in (current_build(copied), other_build(copied)) for file in build.iterdir())
    files += [copied / CURRENT]
    in_use = {*current_build(copied).iterdir(), copied / CURRENT}
    for one in files:
        for other in files:
            if one < other and (one in in_use or other in in_use):
                contents = one.read_bytes(), other.read_bytes()
                if contents[0] == contents[1]:  # both builds have the same items
                    continue
                one.write_bytes(contents[1])
                other.write_bytes(contents[0])
                with pytest.raises(IndexDamagedError):
                    open_build(copied, HASH)
                one.write_bytes(contents[0])
                other.write_bytes(contents[1])
    assert open_build(copied, HASH).manifest.count == 300


@pytest.mark.parametrize("file", [CURRENT, MANIFEST, "shard-0.faiss", "shard-1.items.arrow"])
def test_open_build_rejects_missing_file(copied, file):
    folder = copied if file == CURRENT else current_build(copied)
    (folder / file).unlink()
    with pytest.raises(IndexDamagedError, match="make one with" if file == CURRENT else ": build it again"):
        open_build(copied, HASH)

    (folder / file).mkdir()
    with pytest.raises(IndexDamagedError):
        open_build(copied, HASH)


def test_open_build_ignores_other_builds(copied):
    for file in other_build(copied).iterdir():
        file.write_bytes(b"")

    assert open_build(copied, HASH).manifest.count == 300


@settings(deadline=None, max_examples=30 * SOAK, derandomize=True)
@given(
    content=st.binary(max_size=80) | st.text().map(lambda name: json.dumps({"build": name, "manifest": ""}).encode())
)
def test_random_pointer_is_rejected(spoilt, content):
    (spoilt / CURRENT).write_bytes(content)

    with pytest.raises(IndexDamagedError):
        open_build(spoilt, HASH)


@pytest.mark.parametrize("pointer", ["{}/", "./{}", "../builds/{}", "{}/../{}", ".", "", "{}\\0"])
def test_pointer_out_of_its_folder_is_rejected(copied, pointer):
    build = current_build(copied)
    name = pointer.format(build.name, build.name)
    (copied / CURRENT).write_text(json.dumps({"build": name, "manifest": sha256(build / MANIFEST)}))

    with pytest.raises(IndexDamagedError, match="is not a valid build"):
        open_build(copied, HASH)


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=2))


@settings(deadline=None, max_examples=30 * SOAK, derandomize=True)
@given(field=st.sampled_from(["format", "files", "metric", "dimension", "count", "plan", "shards"]), value=JSON)
def test_random_manifest_is_rejected(spoilt, written, field, value):
    for name in (CURRENT, str(current_build(written).relative_to(written) / MANIFEST)):
        shutil.copy(written / name, spoilt / name)
    edit(spoilt, lambda manifest: manifest.update({field: value}))

    with pytest.raises(IndexDamagedError):
        open_build(spoilt, HASH)


# Skews: files with matching hashes that do not belong together.


def shard_edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda manifest: manifest["shards"][0].update(changes))


def choice_edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda manifest: manifest["shards"][0]["choice"].update(changes))


def top_edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda manifest: manifest.update(changes))


def another_count(folder: Path) -> None:
    """Both counts agree, and the files have another."""
    edit(folder, lambda manifest: (manifest.update(count=301), manifest["shards"][0].update(count=151)))


def one_shard_less(folder: Path) -> None:
    manifest = current_build(folder) / MANIFEST
    content = json.loads(manifest.read_text())
    removed = content["shards"].pop()
    content["files"] = {name: digest for name, digest in content["files"].items() if name not in removed.values()}
    manifest.write_text(json.dumps(content | {"count": content["count"] - removed["count"]}))


def shards_in_the_other_order(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["shards"].reverse())


def one_shard_twice(folder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"] = manifest["shards"][:1] * 2
        manifest["files"] = {name: manifest["files"][name] for name in ("shard-0.faiss", "shard-0.items.arrow")}

    edit(folder, change)


def items_of_another_shard(folder: Path) -> None:
    build = current_build(folder)
    shutil.copy(build / "shard-1.items.arrow", build / "shard-0.items.arrow")
    sign_files(folder)


def vectors_of_another_build(folder: Path) -> None:
    shutil.copy(other_build(folder) / "shard-0.faiss", current_build(folder) / "shard-0.faiss")


def manifest_of_another_build(folder: Path) -> None:
    shutil.copy(other_build(folder) / MANIFEST, current_build(folder) / MANIFEST)


def manifest_of_another_build_vouched_for(folder: Path) -> None:
    manifest_of_another_build(folder)
    sign(folder)


def pointer_to_another_build(folder: Path) -> None:
    pointer = json.loads((folder / CURRENT).read_text())
    (folder / CURRENT).write_text(json.dumps(pointer | {"build": other_build(folder).name}))


def faiss_file(index: Any) -> Callable[[Path], None]:
    def skew(folder: Path) -> None:
        index.add(unit(150, index.d))
        faiss.write_index(index, str(current_build(folder) / "shard-0.faiss"))
        sign_files(folder)

    return skew


SKEWS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another bundle": (top_edit(bundle_hash="a" * 64), "built with bundle aaaaaaaaaaaa, but the bundle in use is bbbb"),
    "an abbreviated bundle": (top_edit(bundle_hash="b" * 12), "built with bundle bbbbbbbbbbbb, but"),
    "no bundle": (top_edit(bundle_hash=""), "built with bundle"),
    "a newer format": (top_edit(format=3), "has format 3, this galleria reads 2"),
    "an older format": (top_edit(format=1), "has format 1, this galleria reads 2"),
    "another metric": (top_edit(metric="l2"), "manifest.json cannot be read"),
    "a smaller dimension": (top_edit(dimension=7), "does not fit its vectors"),
    "a larger dimension": (top_edit(dimension=9), "does not fit its vectors"),
    "another count": (top_edit(count=299), "does not fit its shards"),
    "another count of a shard": (shard_edit(count=149), "does not fit its shards"),
    "other counts that agree": (another_count, "does not fit its vectors"),
    "another kind": (choice_edit(kind="HNSW32", effort=16), "does not fit its vectors"),
    "an effort for a scan": (choice_edit(effort=16), "does not fit its vectors"),
    "a negative effort": (choice_edit(effort=-1), "manifest.json cannot be read"),
    "no shards": (top_edit(shards=[], files={}, count=0), "does not list its shards' files"),
    "an unlisted file": (shard_edit(vectors="other.faiss"), "does not list its shards' files"),
    "an unknown field": (top_edit(preprocessing="other"), "manifest.json cannot be read"),
    "a shard less": (one_shard_less, "manifest.json is damaged"),
    "shards in another order": (shards_in_the_other_order, "keys of another shard"),
    "a shard twice": (one_shard_twice, "keys of another shard"),
    "items of another shard": (items_of_another_shard, "keys of another shard"),
    "vectors of another build": (vectors_of_another_build, "shard-0.faiss is missing or damaged"),
    "the manifest of another build": (manifest_of_another_build, "manifest.json is damaged"),
    "the same, vouched for": (manifest_of_another_build_vouched_for, "shard-0.faiss is missing or damaged"),
    "a pointer to another build": (pointer_to_another_build, "manifest.json is damaged"),
    "vectors of another metric": (faiss_file(faiss.IndexFlatL2(8)), "does not fit its vectors"),
    "vectors of another length": (faiss_file(faiss.IndexFlatIP(9)), "does not fit its vectors"),
    "an index of another kind": (faiss_file(faiss.IndexHNSWFlat(8, 32, faiss.METRIC_INNER_PRODUCT)), "does not fit"),
    "an index of bits": (faiss_file(faiss.IndexLSH(8, 16)), "does not fit its vectors"),
}


@pytest.mark.parametrize("name", SKEWS)
def test_open_build_names_mismatch(copied, name):
    """R9: a manifest that does not fit is rejected by name."""
    skew, message = SKEWS[name]
    skew(copied)

    with pytest.raises(IndexDamagedError, match=message):
        open_build(copied, HASH)


@pytest.mark.parametrize("bundle", ["c" * 64, "", "b" * 63, "B" * 64])
def test_open_build_rejects_other_bundle(written, bundle):
    """R9: an index of another bundle is rejected."""
    with pytest.raises(
        IndexDamagedError, match=f"built with bundle bbbbbbbbbbbb, but the bundle in use is {bundle[:12]}"
    ):
        open_build(written, bundle)


@pytest.mark.parametrize(
    "field",
    ["format", "files", "metric", "dimension", "count", "bundle_hash", "catalog_version", "plan", "shards"],
)
def test_manifest_requires_every_field(copied, field):
    edit(copied, lambda manifest: manifest.pop(field))

    with pytest.raises(IndexDamagedError, match=r"manifest\.json cannot be read"):
        open_build(copied, HASH)


@pytest.mark.parametrize("content", [b"", b"not faiss", b"IxFI" + b"\xff" * 60], ids=["empty", "text", "wild"])
def test_open_build_rejects_invalid_faiss_file(copied, content):
    (current_build(copied) / "shard-1.faiss").write_bytes(content)
    sign_files(copied)

    with pytest.raises(IndexDamagedError, match=r"shard-1\.faiss is not a FAISS index"):
        open_build(copied, HASH)


@pytest.mark.parametrize("content", [b"", b"not arrow", b"ARROW1\0\0" + b"\xff" * 60], ids=["empty", "text", "wild"])
def test_open_build_rejects_invalid_arrow_file(copied, content):
    (current_build(copied) / "shard-1.items.arrow").write_bytes(content)
    sign_files(copied)

    with pytest.raises(IndexDamagedError, match=r"shard-1\.items\.arrow cannot be read"):
        open_build(copied, HASH)


# Names that lead elsewhere.


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../builds", "/etc", "a/b", "a\\b", ".hidden", "a\0b", "\0", "../../index", "x" * 300]
)
def test_pointer_must_name_build(copied, name):
    (copied / CURRENT).write_text(json.dumps({"build": name, "manifest": "0" * 64}))

    with pytest.raises(IndexDamagedError):
        open_build(copied, HASH)


@pytest.mark.parametrize("name", ["../secret", "../../current.json", "/etc/passwd", "..", ".", "", "a\0b", "x" * 300])
def test_manifest_rejects_outside_files(copied, name):
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("shard-0.faiss")
        manifest["shards"][0]["vectors"] = name

    shutil.copy(current_build(copied) / "shard-0.faiss", copied / BUILDS / "secret")
    edit(copied, change)

    with pytest.raises(IndexDamagedError):
        open_build(copied, HASH)


def test_open_build_rejects_outside_link(copied):
    file = current_build(copied) / "shard-0.faiss"
    file.rename(copied / "outside")
    file.symlink_to(copied / "outside")

    with pytest.raises(IndexDamagedError, match="outside the index's folder"):
        open_build(copied, HASH)


def test_open_build_returns_exact_vectors(tmp_path):
    vectors = unit(50, 8, seed=3)
    write_build(tmp_path, [items(range(50), vectors)], Plan(), HASH, 1)

    assert np.array_equal(open_build(tmp_path, HASH).bases[0].index.reconstruct_n(0, 50), vectors)
