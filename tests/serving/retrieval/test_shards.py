"""Shards behind handles give the results of one process; a missing shard is reported."""

import asyncio
import contextlib
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from galleria.catalog.items import INPUT_FIELDS, deletions, item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.errors import DataError, StorageError
from galleria.index.filters import read_filter
from galleria.pipelines.build_index import build_index
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.retrieval.shards import ShardedSearcher, ShardQuery, ShardServer
from galleria.serving.schemas.problems import ProblemError
from tests.serving.conftest import catalog_of, reference_of, write_table

SHARDS = 3


class LocalHandle:
    """A Serve handle's interface over a server in this process."""

    def __init__(self, server):
        self.server = server
        self.calls = []
        self.search, self.describe = (SimpleNamespace(remote=self._to(name)) for name in ("search", "describe"))

    def _to(self, name):
        async def remote(*values):
            self.calls.append(values)
            if isinstance(self.server, Exception):
                raise self.server
            return await getattr(self.server, name)(*pickle.loads(pickle.dumps(values)))  # as between processes

        return remote


@pytest.fixture
def config(catalogue, tmp_path):
    table = shutil.copytree(catalogue.config.table, tmp_path / "table.lance")
    build_index(ProductTable(table), tmp_path / "index", shards=SHARDS)
    return catalogue.config.model_copy(update={"table": str(table), "index": str(tmp_path / "index")})


@pytest.fixture
def handles(config, catalogue):
    location = catalog_of(config, catalogue.bundle)
    servers = [ShardServer(config, number, reference_of(catalogue.bundle, location)) for number in range(SHARDS)]
    yield [LocalHandle(server) for server in servers]
    for server in servers:
        server._catalogs.open(location).close()


@pytest.fixture
def sharded(config, catalogue, handles):
    catalog = LiveCatalog(config.table, config.index, catalogue.bundle.hash, shards=())
    catalog.follow()
    yield ShardedSearcher(catalog, catalog_of(config, catalogue.bundle), handles, timeout_s=5)
    catalog.close()


@pytest.fixture
def local(config, catalogue):
    return LocalSearcher(LiveCatalog(config.table, config.index, catalogue.bundle.hash), threads=2)


def search(searcher, vector, k=10, allowed=None):
    return asyncio.run(searcher.search(vector, k, allowed, searcher.catalog.state))


@pytest.mark.parametrize("k", [1, 5, 1000])
@pytest.mark.parametrize("allowed", [None, {"colour": "red"}, {"category": {"$prefix": ["things"]}}])
def test_results_equal_one_process(sharded, local, catalogue, k, allowed):
    read = read_filter(allowed) if allowed else None
    for vector in catalogue.vectors[:5]:
        result, expected = search(sharded, vector, k, read), search(local, vector, k, read)
        assert result.shards == expected.shards == SHARDS
        assert [neighbor.key for neighbor in result.neighbors] == [neighbor.key for neighbor in expected.neighbors]
        assert [neighbor.score for neighbor in result.neighbors] == pytest.approx(
            [neighbor.score for neighbor in expected.neighbors]
        )


def test_shards_describe_their_items(sharded, local):
    descriptions = asyncio.run(sharded.shards())
    assert descriptions == asyncio.run(local.shards())
    assert sum(shard.indexed for shard in descriptions) == local.catalog.state.count
    assert sharded.catalog.state.unindexed == sharded.unindexed == 0


def test_search_uses_the_gateways_version(sharded, config, catalogue):
    vector = np.eye(32, dtype=np.float32)[3]
    table = ProductTable(config.table)
    written = table.append(
        upserts([{"id": f"new {n}"} for n in range(9)], np.tile(vector, (9, 1)), catalogue.bundle.hash)
    )
    sharded.catalog.wait_for(written.version, 5)

    result = search(sharded, vector, 9)

    assert result.state.version == written.version
    assert [neighbor.score for neighbor in result.neighbors] == pytest.approx([1] * 9, abs=1e-5)
    assert sharded.unindexed == 9

    deleted = written.append(deletions(["new 0"], table.schema))
    sharded.catalog.wait_for(deleted.version, 5)
    assert [neighbor.score > 0.99 for neighbor in search(sharded, vector, 9).neighbors].count(True) == 8


def test_gateway_follows_a_newer_shard(sharded, handles, config, catalogue):
    behind = sharded.catalog.state
    location = catalog_of(config, catalogue.bundle)
    vector = np.eye(32, dtype=np.float32)[3]
    table = ProductTable(config.table)
    for number in range(20):  # more than a shard keeps
        table = table.append(upserts([{"id": str(number)}], vector[None], catalogue.bundle.hash))
        asyncio.run(handles[0].server.search(ShardQuery(location, vector, 1, None, table.version, table.table_id)))

    result = asyncio.run(sharded.search(vector, 20, None, behind))

    assert behind.version < result.state.version <= table.version
    right = [neighbor.key for neighbor in result.neighbors if neighbor.score > 0.99]
    assert len(set(right)) == len(right) == result.state.version - behind.version, "every version adds one item"


def test_wait_for_newer_version_is_bounded(catalogue):
    """Where no shard has the gateway's version any more, it waits for the next one, once and not for long."""
    waits = []

    async def search_old_version(_query):
        return None

    catalog = SimpleNamespace(wait_for=lambda version, timeout_s: waits.append((version, timeout_s)))
    handles = [SimpleNamespace(search=SimpleNamespace(remote=search_old_version))] * SHARDS
    behind = ShardedSearcher(catalog, catalog_of(catalogue.config, catalogue.bundle), handles, timeout_s=5)
    state = SimpleNamespace(version=7, table_id="t", shard_count=SHARDS)

    with pytest.raises(ProblemError, match="changes faster than it can be searched") as error:
        asyncio.run(behind.search(catalogue.vectors[0], 1, None, state))

    assert error.value.status == 503
    [(version, timeout_s)] = waits
    assert version == 8
    assert 0 < timeout_s <= 5


def test_missing_shard_makes_result_partial(sharded, handles, catalogue):
    full = search(sharded, catalogue.vectors[0], 1000)
    handles[1].server = ActorDiedError()
    partial = search(sharded, catalogue.vectors[0], 1000)

    assert (full.shards, partial.shards) == (SHARDS, SHARDS - 1)
    assert [neighbor for neighbor in full.neighbors if neighbor.key % SHARDS != 1] == partial.neighbors
    assert len(asyncio.run(sharded.shards())) == SHARDS - 1


def test_search_without_shards_is_503(sharded, handles, catalogue):
    for handle in handles:
        handle.server = ActorDiedError()
    with pytest.raises(ProblemError, match="shard 0 is not running") as error:
        search(sharded, catalogue.vectors[0])
    assert error.value.status == 503


def test_shard_returns_clients_error(sharded):
    with pytest.raises(DataError, match="31 values, the index has 32"):
        search(sharded, np.ones(31, np.float32))


def test_index_with_other_shards_is_ignored(config, catalogue, caplog):
    part = LiveCatalog(config.table, config.index, catalogue.bundle.hash, shards=(0,))
    before = part.state
    build_index(ProductTable(config.table), Path(config.index), shards=2)

    assert part.refresh() is before
    assert "has 2 shards now, and had 3: start the service again" in caplog.text


def test_shards_search_the_gateways_table(sharded, config, catalogue):
    """A table that is made anew at the same path and version, with equal items but other vectors."""
    table = ProductTable(config.table)
    rows = [row for batch in table.items(("id", *INPUT_FIELDS)) for row in batch.to_pylist()]
    vectors = np.roll(table.vectors()[1], 1, axis=0)
    shutil.rmtree(config.table)
    remade = write_table(config.table, rows, vectors, catalogue.bundle.hash)
    assert remade.version == table.version
    while not sharded.catalog.state.table.is_same(remade):
        with contextlib.suppress(StorageError):  # the files of the previous table are not there
            sharded.catalog.refresh()

    for number in (0, 1, 7):
        result = search(sharded, vectors[number], k=1)
        assert result.shards == SHARDS
        assert result.neighbors[0].key == item_key(rows[number]["id"])
        assert result.neighbors[0].score == pytest.approx(1, abs=1e-5)


def test_shard_without_its_table_is_missing(sharded, config, handles, catalogue):
    """It still searches the version that it has; a newer one it cannot read."""
    table = Path(config.table)
    state = sharded.catalog.state
    for handle in handles[1:]:
        handle.server = ActorDiedError()
    moved = table.rename(table.with_name("moved"))
    vector = catalogue.vectors[0]
    assert search(sharded, vector, 1).neighbors
    newer = SimpleNamespace(version=state.version + 1, table_id=state.table_id, shard_count=SHARDS)
    with pytest.raises(ProblemError, match=r"shard 0: .* try again") as error:
        asyncio.run(sharded.search(vector, 1, None, newer))
    assert (error.value.status, error.value.headers["Retry-After"]) == (503, "1")
    moved.rename(table)
