"""What a catalogue finds does not depend on how often it was opened, moved or compacted."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from galleria.catalog.items import deletions, item_key, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.index.kinds import Plan
from tests.catalog.tables import HASH, create_table, index_of
from tests.index.builds import clustered, unit
from tests.soak import rounds

COUNT, CHANGED, DIMENSION, K = 1_500, 200, 16, 10
MAX_LOSS = 0.005
"""Recall that a compaction may cost."""


class Shop:
    """A catalogue of two shards with changed and deleted items, and the vectors that it holds."""

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        self.vectors = dict(zip(map(str, range(COUNT)), clustered(COUNT, DIMENSION, seed), strict=True))
        near = np.stack([self.vectors[str(number)] for number in range(0, COUNT, COUNT // 60)])
        self.queries = near + 0.3 * unit(len(near), DIMENSION, seed + 1)
        self.table = create_table(folder / "table", self._rows(list(self.vectors)), dimension=DIMENSION)
        plan = Plan(kind=kind, target_recall=0.9)  # so that there is something to lose
        index_of(self.table, folder / "index", 2, plan)
        names = [str(number) for number in range(COUNT - CHANGED // 2, COUNT + CHANGED // 2)]
        self.vectors |= dict(zip(names, clustered(CHANGED, DIMENSION, seed + 2), strict=True))
        self.table = self.table.append(self._rows(names))
        deleted = names[::4]
        self.table = self.table.append(deletions(deleted, self.table.schema))
        for name in deleted:
            del self.vectors[name]

    def recall(self, catalog: LiveCatalog) -> float:
        keys = np.array([item_key(name) for name in self.vectors], np.uint64)
        nearest = np.argsort(-self.queries @ np.stack(list(self.vectors.values())).T)[:, :K]
        hits = catalog.search(self.queries, K)
        shares = [
            len({hit.key for hit in row} & set(keys[best].tolist())) / K
            for row, best in zip(hits, nearest, strict=True)
        ]
        return float(np.mean(shares))

    def _rows(self, names: list[str]):
        return upserts([{"id": name} for name in names], np.stack([self.vectors[name] for name in names]), HASH)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF,SQ8"])
def test_recall_survives_restart_and_restore(tmp_path, kind):
    """R5: recall@10 after a restart, a backup, a way back and a compaction."""
    for random in rounds(1):
        folder = tmp_path / str(random.random())
        shop = Shop(folder, kind, random.randrange(1000))
        live = LiveCatalog(folder / "table", folder / "index", HASH)
        before = shop.recall(live)
        assert before == 1 if kind == "Flat" else 0.5 < before <= 1

        assert shop.recall(LiveCatalog(folder / "table", folder / "index", HASH)) == before

        shutil.copytree(folder, folder.with_name("backup"), dirs_exist_ok=True)
        moved = folder.with_name("restored")
        shutil.rmtree(moved, ignore_errors=True)
        folder.with_name("backup").rename(moved)
        assert shop.recall(LiveCatalog(moved / "table", moved / "index", HASH)) == before

        shop.table.append(deletions([str(number) for number in range(COUNT // 2)], shop.table.schema))
        live.refresh()
        assert shop.recall(live) < before
        shop.table.restore()
        live.refresh()
        assert shop.recall(live) == before

        ProductTable(folder / "table").compact(timedelta(0))
        for catalog in (live, LiveCatalog(folder / "table", folder / "index", HASH)):
            catalog.refresh()
            assert shop.recall(catalog) >= before - MAX_LOSS
