"""Keeps a table that is written to compact, and its index up to date."""

from datetime import timedelta
from pathlib import Path

from galleria.catalog.key_map import KeyMap
from galleria.catalog.table import ProductTable
from galleria.index.base import Build, open_build
from galleria.index.manifest import current_build
from galleria.pipelines.build_index import build_index


class Maintenance:
    """Compacts a table and rebuilds its index when they need it, while readers have them open.

    Args:
        index: folder of the index.
        keep: how long versions of the table without a name are kept.
        max_files: number of small files of rows above which a table is compacted.
        max_unindexed: an index that lacks more items than this, and than a tenth of it, is rebuilt.
    """

    def __init__(self, index: Path, keep: timedelta, max_files: int = 100, max_unindexed: int = 20_000) -> None:
        self._index = index
        self._keep = keep
        self._max_files = max_files
        self._max_unindexed = max_unindexed
        self._build: Build | None = None
        self._checked: tuple[ProductTable, KeyMap] | None = None

    def run(self, table: ProductTable) -> bool:
        """Compact a table of many small files or superseded rows, and rebuild an index that lacks many items.

        Returns whether either was needed. Checks the newest version of the table.
        """
        table = table.latest()
        if self._checked is not None and table.is_same(self._checked[0]):
            return False
        key_map = table.key_map(since=self._checked)
        needed = table.needs_compaction(key_map, self._max_files)
        if needed:
            table = table.compact(self._keep)
            key_map = table.key_map()
        if self._build is None or self._build.folder != current_build(self._index):
            self._build = open_build(self._index, table.bundle_hash)
        manifest = self._build.manifest
        limit = max(self._max_unindexed, manifest.count // 10) if manifest.table_id == table.table_id else 0
        if unindexed(table, self._build, key_map) > limit:
            self._build = None  # frees its memory before the new one takes as much
            build_index(table, self._index, manifest.plan, len(manifest.shards))
            needed = True
        self._checked = table, key_map
        return needed


def unindexed(table: ProductTable, build: Build, key_map: KeyMap | None = None) -> int:
    """Return how many items of this version, whose map it may get, a build lacks or holds with another content."""
    keys, contents, _ = (key_map or table.key_map()).arrays()
    if build.manifest.table_id != table.table_id:
        return len(keys)
    indexed = sum(int(base.unchanged(base.positions(keys), contents).sum()) for base in build.bases.values())
    return len(keys) - indexed
