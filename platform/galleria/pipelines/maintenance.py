"""Keeps a table that is written to compact, and its index up to date."""

from datetime import timedelta
from pathlib import Path

from galleria.catalog.table import ProductTable
from galleria.index.base import Build, open_build
from galleria.index.manifest import current_build
from galleria.pipelines.build_index import build_index


class Maintenance:
    """Does what is due. Who has the table and the index open goes on with them, and sees the new ones soon.

    Args:
        index: folder of the index.
        keep: how long versions of the table without a name are kept.
        most_files: files of rows beyond which a table is compacted.
        max_unindexed: items that an index does not hold, beyond which (or beyond a tenth of it) it is built anew.
    """

    def __init__(self, index: Path, keep: timedelta, most_files: int = 100, max_unindexed: int = 20_000) -> None:
        self._index = index
        self._keep = keep
        self._most_files = most_files
        self._max_unindexed = max_unindexed
        self._build: Build | None = None
        self._looked = -1

    def look(self, table: ProductTable) -> bool:
        """Compact a table of many files, and build its index anew where it lacks many items; whether anything was due.

        Looks at the newest version, whichever is given.
        """
        if table.newest == self._looked:
            return False
        table = table.latest()
        due = len(table.fragments) > self._most_files
        if due:
            table = table.compact(self._keep)
        if self._build is None or self._build.folder != current_build(self._index):
            self._build = open_build(self._index, table.bundle_hash)
        if unindexed(table, self._build) > max(self._max_unindexed, self._build.manifest.count // 10):
            manifest = self._build.manifest
            self._build = None  # its memory, before the new one takes as much
            build_index(table, self._index, manifest.plan, len(manifest.shards))
            due = True
        self._looked = table.version
        return due


def unindexed(table: ProductTable, build: Build) -> int:
    """Items of this version that a build does not hold, or holds with another content."""
    keys, contents, _ = table.key_map().arrays()
    indexed = sum(int(base.unchanged(base.positions(keys), contents).sum()) for base in build.bases.values())
    return len(keys) - indexed
