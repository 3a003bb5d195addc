"""Shards behind handles answer as the shards of one process do; what is away is told, never passed over."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from galleria.catalog.items import deletions, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.errors import DataError
from galleria.index.filters import read_filter
from galleria.pipelines.build_index import build_index
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.retrieval.shards import ShardedSearcher, ShardQuery, ShardServer
from galleria.serving.schemas.problems import ProblemError
from tests.serving.conftest import catalog_of, choice_of

SHARDS = 3


class LocalHandle:
    """What a Serve handle of a deployment is to its caller, in this process."""

    def __init__(self, server):
        self.server = server
        self.asked = []
        self.search, self.describe = (SimpleNamespace(remote=self._to(name)) for name in ("search", "describe"))

    def _to(self, name):
        async def remote(*values):
            self.asked.append(values)
            if isinstance(self.server, Exception):
                raise self.server
            return await getattr(self.server, name)(*values)

        return remote


@pytest.fixture
def config(catalogue, tmp_path):
    table = shutil.copytree(catalogue.config.table, tmp_path / "table.lance")
    build_index(ProductTable(table), tmp_path / "index", shards=SHARDS)
    return catalogue.config.model_copy(update={"table": str(table), "index": str(tmp_path / "index")})


@pytest.fixture
def handles(config, catalogue):
    choice = choice_of(catalogue.bundle, catalog_of(config, catalogue.bundle))
    return [LocalHandle(ShardServer(config, number, choice)) for number in range(SHARDS)]


@pytest.fixture
def sharded(config, catalogue, handles):
    catalog = LiveCatalog(config.table, config.index, catalogue.bundle.hash, shards=())
    catalog.follow()
    yield ShardedSearcher(catalog, catalog_of(config, catalogue.bundle), handles, seconds=5)
    catalog.close()


@pytest.fixture
def local(config, catalogue):
    return LocalSearcher(LiveCatalog(config.table, config.index, catalogue.bundle.hash), threads=2)


def search(searcher, vector, k=10, allowed=None):
    return asyncio.run(searcher.search(vector, k, allowed, searcher.catalog.state))


@pytest.mark.parametrize("k", [1, 5, 1000])
@pytest.mark.parametrize("allowed", [None, {"colour": "red"}, {"category": {"$prefix": ["things"]}}])
def test_they_answer_as_one_process_does(sharded, local, catalogue, k, allowed):
    wanted = read_filter(allowed) if allowed else None
    for vector in catalogue.vectors[:5]:
        answer, expected = search(sharded, vector, k, wanted), search(local, vector, k, wanted)
        assert answer.shards == expected.shards == SHARDS
        assert [found.key for found in answer.found] == [found.key for found in expected.found]
        assert [found.score for found in answer.found] == pytest.approx([found.score for found in expected.found])


def test_they_tell_what_they_hold(sharded, local):
    told = asyncio.run(sharded.shards())
    assert told == asyncio.run(local.shards())
    assert sum(shard.indexed for shard in told) == local.catalog.state.count
    assert sharded.catalog.state.unindexed == sharded.unindexed == 0


def test_all_shards_are_searched_at_the_version_that_the_gateway_has_seen(sharded, config, catalogue):
    vector = np.eye(32, dtype=np.float32)[3]
    table = ProductTable(config.table)
    written = table.append(
        upserts([{"id": f"new {n}"} for n in range(9)], np.tile(vector, (9, 1)), catalogue.bundle.hash)
    )
    sharded.catalog.wait_for(written.version, 5)

    answer = search(sharded, vector, 9)

    assert answer.state.version == written.version
    assert [found.score for found in answer.found] == pytest.approx([1] * 9, abs=1e-5)
    assert sharded.unindexed == 9

    gone = written.append(deletions(["new 0"], table.schema))
    sharded.catalog.wait_for(gone.version, 5)
    assert [found.score > 0.99 for found in search(sharded, vector, 9).found].count(True) == 8


def test_a_shard_that_is_beyond_the_gateway_has_it_follow(sharded, handles, config, catalogue):
    behind = sharded.catalog.state
    place = catalog_of(config, catalogue.bundle)
    vector = np.eye(32, dtype=np.float32)[3]
    table = ProductTable(config.table)
    for number in range(20):  # more than a shard keeps
        table = table.append(upserts([{"id": str(number)}], vector[None], catalogue.bundle.hash))
        asyncio.run(handles[0].server.search(ShardQuery(place, vector, 1, None, table.version)))

    answer = asyncio.run(sharded.search(vector, 20, None, behind))

    assert behind.version < answer.state.version <= table.version
    right = [found.key for found in answer.found if found.score > 0.99]
    assert len(set(right)) == len(right) == answer.state.version - behind.version, "every version adds one item"


def test_a_shard_that_is_away_makes_an_answer_partial(sharded, handles, catalogue):
    whole = search(sharded, catalogue.vectors[0], 1000)
    handles[1].server = ActorDiedError()
    part = search(sharded, catalogue.vectors[0], 1000)

    assert (whole.shards, part.shards) == (SHARDS, SHARDS - 1)
    assert [found for found in whole.found if found.key % SHARDS != 1] == part.found
    assert len(asyncio.run(sharded.shards())) == SHARDS - 1


def test_without_any_shard_there_is_no_answer(sharded, handles, catalogue):
    for handle in handles:
        handle.server = ActorDiedError()
    with pytest.raises(ProblemError, match="shard 0 is not running") as error:
        search(sharded, catalogue.vectors[0])
    assert error.value.status == 503


def test_what_a_shard_refuses_is_the_callers_error(sharded):
    with pytest.raises(DataError, match="31 values, the index has 32"):
        search(sharded, np.ones(31, np.float32))


def test_an_index_of_another_number_of_shards_is_not_taken_up(config, catalogue, caplog):
    part = LiveCatalog(config.table, config.index, catalogue.bundle.hash, shards=(0,))
    before = part.state
    build_index(ProductTable(config.table), Path(config.index), shards=2)

    assert part.refresh() is before
    assert "has 2 shards now, and had 3: start the service again" in caplog.text
