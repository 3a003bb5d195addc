import asyncio
import shutil
import threading
import time

import numpy as np
import pytest

from galleria.catalog.live import LiveCatalog
from galleria.errors import BundleError, DataError, IndexDamagedError
from galleria.pipelines.build_index import build_index
from galleria.serving.app import build
from galleria.serving.config import SEARCH
from galleria.serving.resolve import check_fit
from galleria.serving.retrieval.searcher import LocalSearcher
from tests.serving.conftest import write_table


@pytest.fixture(scope="module")
def searcher(catalogue):
    return LiveCatalog(catalogue.config.table, catalogue.config.index, catalogue.bundle.hash)


def test_finds_every_item_by_its_vector_and_its_id(searcher, catalogue):
    assert (searcher.state.count, searcher.dimension, searcher.state.version) == (len(catalogue.ids), 32, 2)
    for place, item_id in enumerate(catalogue.ids):
        [[first]] = searcher.search(catalogue.vectors[place][None], 1)
        assert first.score == pytest.approx(1, abs=1e-5)
        assert searcher.fetch([first.key])[0]["id"] == item_id
        assert searcher.item(item_id)["id"] == item_id
    assert searcher.item("no such id") is None


def test_a_score_is_the_dot_product_whatever_the_length(searcher, catalogue):
    vector = 3 * catalogue.vectors[4]
    [found] = searcher.search(vector[None], len(catalogue.ids))
    np.testing.assert_allclose([result.score for result in found], np.sort(catalogue.vectors @ vector)[::-1], atol=1e-5)
    assert found[0].score == pytest.approx(3, abs=1e-5)


class Where(LiveCatalog):
    """Remembers the thread of every search, and takes its time."""

    def __init__(self, catalogue, seconds):
        super().__init__(catalogue.config.table, catalogue.config.index, catalogue.bundle.hash)
        self.seconds = seconds
        self.threads = []

    def search(self, *asked):
        self.threads.append(threading.current_thread())
        time.sleep(self.seconds)
        return super().search(*asked)


@pytest.mark.parametrize(("seconds", "here"), [(0, True), (0.01, False)])
def test_only_quick_searches_are_done_in_the_loop(catalogue, seconds, here):
    watched = Where(catalogue, seconds)
    local = LocalSearcher(watched, 2)
    vector = catalogue.vectors[3]

    async def ask():
        return [await local.search(vector, 3, None, watched.state) for _ in range(200)]

    answers = asyncio.run(ask())
    assert watched.threads[0] is not threading.current_thread(), "it must have been seen to be quick"
    assert (watched.threads.count(threading.current_thread()) > 50) is here
    assert all(answer == answers[0] for answer in answers)


def test_what_belongs_together_fits(catalogue):
    name = check_fit(catalogue.config)[SEARCH].main.model
    assert (name.family, name.hash) == ("text_guided", catalogue.bundle.hash)


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
    shutil.copytree(catalogue.bundle.path, tmp_path / "torn")
    with (tmp_path / "torn" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    return lambda **places: catalogue.config.model_copy(
        update={name: str(tmp_path / place) for name, place in places.items()}
    )


@pytest.mark.parametrize(
    ("places", "error", "said"),
    [
        ({"table": "foreign.lance"}, BundleError, "were made with bundle other"),
        ({"table": "none.lance"}, DataError, "no product table"),
        ({"index": "foreign"}, IndexDamagedError, "was built with bundle other"),
        ({"index": "damaged"}, IndexDamagedError, "damaged"),
        ({"index": "none"}, IndexDamagedError, "no index"),
        ({"bundle": "bundle"}, BundleError, "manifest.json cannot be read"),
        ({"bundle": "none"}, BundleError, "not a bundle"),
        ({"bundle": "torn"}, BundleError, "model.safetensors is missing or damaged"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_anything_starts(skewed, places, error, said):
    with pytest.raises(error, match=said):
        build(skewed(**places))
