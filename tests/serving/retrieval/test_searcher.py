import asyncio
import json
import shutil
import threading
from contextlib import nullcontext

import numpy as np
import pytest

from galleria.catalog.live import LiveCatalog
from galleria.errors import BundleError, DataError, GalleriaError, IndexDamagedError
from galleria.files import sha256
from galleria.learn.bundle_manifest import identity
from galleria.pipelines.build_index import build_index
from galleria.serving.app import build
from galleria.serving.config import SEARCH
from galleria.serving.resolve import resolve_all
from galleria.serving.retrieval.searcher import LocalSearcher
from tests.serving.conftest import write_table


@pytest.fixture(scope="module")
def searcher(catalogue):
    return LiveCatalog(catalogue.config.table, catalogue.config.index, catalogue.bundle.hash)


def test_item_is_found_by_vector_and_id(searcher, catalogue):
    assert (searcher.state.count, searcher.dimension, searcher.state.version) == (len(catalogue.ids), 32, 2)
    for index, item_id in enumerate(catalogue.ids):
        [[first]] = searcher.search(catalogue.vectors[index][None], 1)
        assert first.score == pytest.approx(1, abs=1e-5)
        assert searcher.fetch([first.key])[0]["id"] == item_id
        assert searcher.item(item_id)["id"] == item_id
    assert searcher.item("no such id") is None


def test_score_is_the_dot_product(searcher, catalogue):
    vector = 3 * catalogue.vectors[4]
    [neighbors] = searcher.search(vector[None], len(catalogue.ids))
    np.testing.assert_allclose(
        [neighbor.score for neighbor in neighbors], np.sort(catalogue.vectors @ vector)[::-1], atol=1e-5
    )
    assert neighbors[0].score == pytest.approx(3, abs=1e-5)


class SlowCatalog(LiveCatalog):
    """Records the thread of every search, each of which takes so many seconds of its clock."""

    def __init__(self, catalogue, seconds):
        super().__init__(catalogue.config.table, catalogue.config.index, catalogue.bundle.hash)
        self.seconds = seconds
        self.threads = []
        self.now = 0.0

    def search(self, *arguments):
        self.threads.append(threading.current_thread())
        self.now += self.seconds
        return super().search(*arguments)


@pytest.mark.parametrize(("seconds", "in_loop"), [(0, True), (0.01, False)])
def test_only_fast_searches_run_in_event_loop(catalogue, seconds, in_loop):
    catalog = SlowCatalog(catalogue, seconds)
    local = LocalSearcher(catalog, 2, clock=lambda: catalog.now)
    vector = catalogue.vectors[3]

    async def ask():
        return [await local.search(vector, 3, None, catalog.state) for _ in range(200)]

    answers = asyncio.run(ask())
    assert catalog.threads[0] is not threading.current_thread(), "it must have been seen to be quick"
    assert (catalog.threads.count(threading.current_thread()) > 50) is in_loop
    assert all(answer == answers[0] for answer in answers)


def test_matching_config_resolves(catalogue):
    name = resolve_all(catalogue.config)[SEARCH].main.model
    assert (name.family, name.hash) == ("text_guided", catalogue.bundle.hash)


@pytest.mark.parametrize("writable", [True, False])
def test_only_a_writer_sets_torn_manifest_aside(catalogue, tmp_path, writable):
    """A loss of power may leave one; readers, which may not write there, start once the writer has."""
    table = shutil.copytree(catalogue.config.table, tmp_path / "table.lance")
    [newest, *_] = sorted(table.glob("_versions/*.manifest"))
    torn = newest.with_name(f"{int(newest.stem) - 1:020}.manifest")
    torn.write_bytes(b"")
    config = catalogue.config.model_copy(update={"table": str(table), "writable": writable})

    with nullcontext() if writable else pytest.raises(GalleriaError):
        resolve_all(config)

    assert torn.exists() is not writable
    assert torn.with_name(f"{torn.name}.torn").exists() is writable


@pytest.fixture
def skewed(catalogue, rows, tmp_path):
    """Arguments with a table and an index of another bundle, and damaged ones."""
    vectors = np.eye(32, dtype=np.float32)
    foreign = write_table(tmp_path / "foreign.lance", rows[:32], vectors, "other")
    build_index(foreign, tmp_path / "foreign")
    shutil.copytree(catalogue.config.index, tmp_path / "damaged")
    [vectors_file] = (tmp_path / "damaged").glob("builds/*/shard-0.faiss")
    with vectors_file.open("r+b") as file:
        file.seek(200)
        file.write(b"\x00\xff\x00\xff")
    shutil.copytree(catalogue.bundle.path, tmp_path / "bundle")
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    nameless = shutil.copytree(catalogue.bundle.path, tmp_path / "nameless")
    (nameless / "config.json").write_text("{}")
    manifest = json.loads((nameless / "manifest.json").read_text())
    manifest["files"]["config.json"] = sha256(nameless / "config.json")
    (nameless / "manifest.json").write_text(json.dumps(manifest | {"hash": identity(manifest["files"])}))
    shutil.copytree(catalogue.bundle.path, tmp_path / "torn")
    with (tmp_path / "torn" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    return lambda **paths: catalogue.config.model_copy(
        update={name: str(tmp_path / path) for name, path in paths.items()}
    )


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        ({"table": "foreign.lance"}, BundleError, "were made with bundle other"),
        ({"table": "none.lance"}, DataError, "no product table"),
        ({"index": "foreign"}, IndexDamagedError, "was built with bundle other"),
        ({"index": "damaged"}, IndexDamagedError, "damaged"),
        ({"index": "none"}, IndexDamagedError, "no index"),
        ({"bundle": "bundle"}, BundleError, "manifest.json cannot be read"),
        ({"bundle": "nameless"}, BundleError, r"config.json cannot be read \('family'\)"),
        ({"bundle": "none"}, BundleError, "not a bundle"),
        ({"bundle": "torn"}, BundleError, "model.safetensors is missing or damaged"),
    ],
)
def test_mismatched_config_is_rejected(skewed, paths, error, message):
    with pytest.raises(error, match=message):
        build(skewed(**paths))
