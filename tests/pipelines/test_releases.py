"""Releases are immutable and pass their gates; aliases resolve to them."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from galleria.catalog.items import table_schema, upserts
from galleria.catalog.table import ProductTable
from galleria.errors import BundleError, ConfigurationError, DataError, IndexDamagedError
from galleria.files import sha256
from galleria.learn.bundle import Bundle
from galleria.pipelines.build_index import build_index
from galleria.pipelines.releases import Alias, bundle_of, publish, read_aliases, read_release, write_alias


@pytest.fixture(scope="module")
def scored(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, with a score."""
    copy = shutil.copytree(bundle.path, tmp_path_factory.mktemp("scored") / "bundle")
    metrics = json.dumps({"R@1": {"value": 0.5, "low": 0.4, "high": 0.6, "count": 9, "dropped": 0}})
    (copy / "metrics.json").write_text(metrics)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["metrics.json"] = sha256(copy / "metrics.json")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_release_is_a_copy_with_the_next_version(scored: Path, bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(scored, tmp_path / "mine")
    first = publish(tmp_path / "r", "shoes", copy)
    shutil.rmtree(copy)
    second = publish(tmp_path / "r", "shoes", scored)
    other = publish(tmp_path / "r", "hats", scored)

    assert (first.id, second.id, other.id) == ("shoes@1", "shoes@2", "hats@1")
    assert (first.hash, first.family, first.metrics) == (bundle.hash, "text_guided", {"R@1": 0.5})
    assert read_release(tmp_path / "r", "shoes@1") == first
    assert Bundle.open(bundle_of(tmp_path / "r", first)).hash == bundle.hash


def test_concurrent_releases_get_own_versions(scored: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: publish(tmp_path / "r", "shoes", scored).version, range(8)))

    assert sorted(versions) == list(range(1, 9))
    assert sorted(folder.name for folder in (tmp_path / "r/releases/shoes").iterdir()) == sorted(map(str, versions))


@pytest.mark.parametrize("gate", ["R@1>=0.5", "R@1 >= .4", "R@1<=0.5"])
def test_met_gate_publishes(scored: Path, tmp_path: Path, gate: str) -> None:
    assert publish(tmp_path / "r", "shoes", scored, gates=[gate]).version == 1


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("R@1>=0.51", "misses its gate 'R@1>=0.51': R@1 is 0.5; not published"),
        ("R@1<=0.49", "misses its gate"),
        ("R@5>=0.1", "has no score 'R@5': it has R@1"),
        ("R@1", "gate 'R@1' is not a valid condition"),
        ("R@1>=much", "is not a valid condition"),
    ],
)
def test_missed_gate_publishes_nothing(scored: Path, tmp_path: Path, gate: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        publish(tmp_path / "r", "shoes", scored, gates=[gate])
    assert not (tmp_path / "r").exists()


def test_damaged_release_is_not_published(scored: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(scored, tmp_path / "torn")
    with (torn / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="damaged"):
        publish(tmp_path / "r", "shoes", torn)
    with pytest.raises(DataError, match="no product table"):
        publish(tmp_path / "r", "shoes", scored, "none.lance", "none")
    with pytest.raises(ConfigurationError, match="table and index go together"):
        publish(tmp_path / "r", "shoes", scored, table="t")
    with pytest.raises(ConfigurationError, match=r"not '\.\./x'"):
        publish(tmp_path / "r", "../x", scored)
    assert not (tmp_path / "r").exists()


def test_index_of_another_bundle_is_rejected(scored: Path, bundle: Bundle, tmp_path: Path) -> None:
    items = [{"id": name} for name in "abcd"]
    for name, bundle_hash in (("mine", bundle.hash), ("foreign", "f" * 64)):
        table = ProductTable.create(tmp_path / name, table_schema(4, bundle_hash))
        build_index(table.append(upserts(items, np.eye(4, dtype=np.float32), bundle_hash)), tmp_path / f"{name}-index")

    mine, foreign = str(tmp_path / "mine"), str(tmp_path / "foreign-index")
    with pytest.raises(IndexDamagedError, match="was built with bundle ffff"):
        publish(tmp_path / "r", "shoes", scored, mine, foreign)
    release = publish(tmp_path / "r", "shoes", scored, mine, f"{mine}-index")
    assert (release.table, release.index) == (mine, f"{mine}-index")


def test_alias_resolves_to_the_last_release_set(scored: Path, tmp_path: Path) -> None:
    for _ in range(2):
        publish(tmp_path, "shoes", scored)
    write_alias(tmp_path, "search", Alias(release="shoes@1"))
    write_alias(tmp_path, "mood", Alias(release="shoes@2"))
    write_alias(tmp_path, "search", Alias(release="shoes@2", canary="shoes@1", canary_weight=0.25))

    assert read_aliases(tmp_path) == {
        "mood": Alias(release="shoes@2"),
        "search": Alias(release="shoes@2", canary="shoes@1", canary_weight=0.25),
    }
    assert {file.name for file in (tmp_path / "aliases").iterdir()} == {"mood.json", "search.json"}


def test_publish_is_durable(scored: Path, tmp_path: Path) -> None:
    synced: list[tuple[Path, bool]] = []
    lines = tmp_path / "releases" / "shoes"
    publish(tmp_path, "shoes", scored, to_disk=lambda path: synced.append((path, (lines / "1").exists())))

    parents, content, last = synced[:2], synced[2:-1], synced[-1]
    assert [path for path, _ in parents] == [tmp_path, tmp_path / "releases"]
    unnamed = content[-1][0]
    assert unnamed.parent == lines and not any(named for _, named in content)
    assert {path.relative_to(unnamed) for path, _ in content} == {
        path.relative_to(lines / "1") for path in (lines / "1", *(lines / "1").rglob("*"))
    }
    assert last == (lines, True)


def test_alias_is_durable(scored: Path, tmp_path: Path) -> None:
    publish(tmp_path, "shoes", scored)
    synced: list[tuple[Path, bool]] = []
    alias = tmp_path / "aliases" / "search.json"
    write_alias(
        tmp_path, "search", Alias(release="shoes@1"), to_disk=lambda path: synced.append((path, alias.exists()))
    )

    parent, (unnamed, named), last = synced
    assert parent == (tmp_path, False)
    assert unnamed.parent == alias.parent and unnamed != alias and not named
    assert last == (alias.parent, True)


def test_alias_of_missing_release_is_rejected(scored: Path, tmp_path: Path) -> None:
    publish(tmp_path, "shoes", scored)
    with pytest.raises(ConfigurationError, match=r"no release 'shoes@7' in .*; of this name there is shoes@1"):
        write_alias(tmp_path, "search", Alias(release="shoes@7"))
    with pytest.raises(ConfigurationError, match=r"no release 'hats@1' in .*; of this name there is none"):
        write_alias(tmp_path, "search", Alias(release="shoes@1", canary="hats@1", canary_weight=0.1))
    with pytest.raises(ConfigurationError, match="'a/b'"):
        write_alias(tmp_path, "a/b", Alias(release="shoes@1"))
    assert read_aliases(tmp_path) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"release": "../shoes@1"},
        {"release": "shoes@0"},
        {"release": "shoes"},
        {"release": "shoes@1", "canary": "shoes@2"},
        {"release": "shoes@1", "canary_weight": 0.1},
        {"release": "shoes@1", "canary": "shoes@2", "canary_weight": 2},
    ],
)
def test_invalid_alias_is_rejected(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Alias.model_validate(fields)


def test_damaged_release_and_alias_are_reported(scored: Path, tmp_path: Path) -> None:
    publish(tmp_path, "shoes", scored)
    write_alias(tmp_path, "search", Alias(release="shoes@1"))
    (tmp_path / "releases/shoes/1/release.json").write_text("{}")
    (tmp_path / "aliases/search.json").write_text("[")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_release(tmp_path, "shoes@1")
    with pytest.raises(ConfigurationError, match="set it again"):
        read_aliases(tmp_path)
