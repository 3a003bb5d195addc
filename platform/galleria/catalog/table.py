"""The product table: one Lance dataset of pictures with their fields and vectors, on a local disk or an object store.

It is a log. A write appends rows, so that a commit costs the same at a thousand items and at ten million; the last row
of an id is the current one, and a row with `deleted` says that there is no such item. `compact` removes superseded
rows; those that it writes are marked in the column `settled`, and are older than all others, wherever they are stored.
"""

import contextlib
import errno
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import write_fragments
from numpy.typing import NDArray

from galleria.catalog.compaction import (
    ADDRESS,
    COMPACTED,
    compacted_rows,
    count_rows,
    dead_addresses,
    files_to_rewrite,
    is_due,
)
from galleria.catalog.items import BUNDLE_HASH, FIELDS, FORMAT, FORMAT_KEY, TABLE_ID, item_key
from galleria.catalog.key_map import KeyMap
from galleria.catalog.retention import outdated_versions
from galleria.catalog.torn_manifests import set_torn_aside
from galleria.durable import Sync, sync, sync_files
from galleria.errors import CatalogFullError, ConfigurationError, DataError, SchemaError, StorageError
from galleria.files import is_local

logger = logging.getLogger(__name__)

LOG = ("key", "content", "deleted")
"""Columns from which the current rows are computed."""

COMMIT_RETRIES = 20


class ProductTable:
    """One version of a product table. `latest` and the methods that write return later ones."""

    def __init__(self, path: Path | str, version: int | str | None = None, to_disk: Sync = sync) -> None:
        """Open a version: its number, the name of a snapshot, or by default the newest.

        Raises:
            DataError: there is no product table at `path`, or no such version.
            SchemaError: it was written by a newer galleria, or by something else.
        """
        self.path = str(path)
        self._to_disk = to_disk
        try:
            self._dataset = lance.dataset(self.path, version=version)
        except (ValueError, OSError) as error:
            if version is not None and _exists(self.path):
                raise DataError(
                    f"{path} has no version or snapshot {version!r}: see 'galleria items versions'"
                ) from error
            raise DataError(f"there is no product table at {path}: make one with 'galleria embed'") from error
        self._check_format()

    @classmethod
    def create(cls, path: Path | str, schema: pa.Schema, to_disk: Sync = sync) -> "ProductTable":
        """Create an empty table with a schema of `table_schema`.

        Raises:
            ConfigurationError: the table exists.
        """
        if _exists(str(path)):
            raise ConfigurationError(f"there is already a product table at {path}: choose another path")
        schema = schema.with_metadata({**(schema.metadata or {}), TABLE_ID: uuid.uuid4().hex.encode()})
        with _reports_storage(str(path)):
            lance.write_dataset(schema.empty_table(), str(path), mode="create", enable_v2_manifest_paths=True)
        table = cls(path, to_disk=to_disk)
        table._sync_commit()
        if is_local(table.path):
            (table._folder / "data").mkdir(exist_ok=True)  # so that no append need make its name durable
            to_disk(table._folder)
            to_disk(table._folder.parent)
        return table

    @classmethod
    def recover(cls, path: Path | str, to_disk: Sync = sync) -> "ProductTable":
        """Open a table to write to it, after a power loss too.

        A commit that was interrupted before it was acknowledged may leave an empty or torn manifest: it is renamed to
        `*.torn`, with a warning, and the version before it is the newest.
        """
        if is_local(str(path)):
            set_torn_aside(str(path), to_disk)
        return cls(path, to_disk=to_disk)

    @property
    def version(self) -> int:
        """Number of this version; every commit adds one."""
        return int(self._dataset.version)

    @property
    def newest(self) -> int:
        """Number of the newest version."""
        with _reports_storage(self.path):
            return int(self._dataset.latest_version)

    def is_newest(self) -> bool:
        """Return whether there seems to be no newer version, at a cost that does not depend on their number.

        Does not see one after a gap: where this version is kept (as a snapshot is), and the next one was deleted.
        """
        if is_local(self.path):
            return self._manifest(self.version).exists() and not self._manifest(self.version + 1).exists()
        return self.newest == self.version

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table, with the bundle's hash in the metadata."""
        return self._dataset.schema

    @property
    def bundle_hash(self) -> str:
        """Hash of the bundle that made the vectors."""
        return str((self.schema.metadata or {}).get(BUNDLE_HASH, b"").decode())

    @property
    def table_id(self) -> str:
        """Identity of the table, which one that is made anew at its path does not have."""
        return str((self.schema.metadata or {}).get(TABLE_ID, b"").decode())

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.schema.field("embedding").type.list_size)

    @property
    def fragments(self) -> tuple[tuple[int, int], ...]:
        """Id of every fragment, and the number of its removed rows."""
        return tuple((part.fragment_id, part.num_deletions) for part in self._dataset.get_fragments())

    def is_same(self, other: "ProductTable") -> bool:
        """Return whether another is the same version of the same table; numbers repeat where one is made anew."""
        return (self.table_id, self.version, _last_files(self._dataset.get_fragments())) == (
            other.table_id,
            other.version,
            _last_files(other._dataset.get_fragments()),
        )

    def latest(self) -> "ProductTable":
        """Open the newest version. Raises as `at`."""
        return self.at(None)

    def at(self, version: int | None) -> "ProductTable":
        """Open another version; None for the newest.

        Raises:
            DataError: there is no such version.
            StorageError: the table, which was there before, cannot be read.
        """
        try:
            return ProductTable(self.path, version, self._to_disk)
        except DataError as error:
            if version is not None and _exists(self.path):
                raise
            raise StorageError(f"product table {self.path} cannot be read now: try again ({error})") from error

    def append(self, rows: pa.RecordBatch | pa.Table | pa.RecordBatchReader) -> "ProductTable":
        """Append rows (`upserts`, `deletions`) in one commit; return once they would survive a power loss.

        Other processes may write at the same time: every commit gets its own version, in one order for all.

        Raises:
            CatalogFullError: the disk is full; nothing of `rows` was written.
            StorageError: the storage failed; `rows` may have been written, but perhaps not durably.
            SchemaError: the rows have other columns.
        """
        if not isinstance(rows, pa.RecordBatchReader):
            self._check_schema(rows.schema)
            rows = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        with _reports_storage(self.path):
            before = self._identity_on_disk()
            fragments = write_fragments(rows, self._dataset, mode="append")
            self._sync_data(fragments)
            committed = lance.LanceDataset.commit(
                self._dataset,
                lance.LanceOperation.Append(fragments),
                read_version=self.version,
                max_retries=COMMIT_RETRIES,
            )
            table = self._with(committed)
            table._sync_commit()
            if self._identity_on_disk() != before:  # Lance makes a new folder, which lacks the rows of earlier versions
                raise StorageError(f"product table {self.path} was removed during a write: bring it back")
        return table

    def key_map(self, since: "tuple[ProductTable, KeyMap] | None" = None) -> KeyMap:
        """Return the map of keys to the current rows of this version.

        Args:
            since: an earlier version and its map; where rows were only appended since, only these are read.
        """
        if since is not None:
            added = self.added(since[0])
            if added is not None:
                return since[1].apply(*log_columns(added))
        return KeyMap.fold(*self._log())

    def added(self, since: "ProductTable", columns: Sequence[str] = LOG) -> pa.Table | None:
        """Return the rows appended since an earlier version; None where rows have also been moved or removed."""
        before, now = since._dataset.get_fragments(), self._dataset.get_fragments()
        if self.table_id != since.table_id or _rows_of(now[: len(before)]) != _rows_of(before):
            return None
        new = now[len(before) :]
        return self._scan(columns, new) if new else self._empty(columns)

    def scan(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all rows in the order in which they are stored, with their `_rowaddr`."""
        return self._scan(columns, None)

    def attributes(self) -> Iterator[tuple[NDArray[np.uint64], pa.Array]]:
        """Read the encoded attributes of all rows in batches, each after the rows' addresses."""
        for batch in self._dataset.scanner(columns=["attributes"], with_row_address=True).to_batches():
            yield batch[ADDRESS].to_numpy(), batch["attributes"]

    def take(self, addresses: Sequence[int] | NDArray[np.uint64], columns: Sequence[str]) -> pa.Table:
        """Read columns of rows by their address in this version."""
        if len(addresses) == 0:
            return self._empty(columns).drop_columns([ADDRESS])
        with _reports_storage(self.path):
            return self._dataset._take_rows([int(address) for address in addresses], columns=list(columns))

    def rows(self, addresses: Sequence[int], columns: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
        """Read rows by their address, as one mapping a row, each with its id."""
        taken: list[dict[str, Any]] = self.take(addresses, ("id", *columns)).to_pylist()
        return taken

    def item(self, item_id: str, columns: Sequence[str] = FIELDS) -> Mapping[str, Any] | None:
        """Read one item, or return None. Without an index: the keys of all rows are read."""
        entry = self.key_map().get(item_key(item_id))
        return None if entry is None else self.rows([entry.address], columns)[0]

    def items(self, columns: Sequence[str], rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """Read columns of all items, ordered by key, in batches of `rows`."""
        _, _, addresses = self.key_map().arrays()
        for start in range(0, len(addresses), rows):
            yield from self.take(addresses[start : start + rows], columns).to_batches()

    def vectors(self) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
        """Read ids `[N]` and vectors `[N, D]` of all items, ordered by key."""
        _, _, addresses = self.key_map().arrays()
        table = self.take(addresses, ("id", "embedding"))
        return np.asarray(table["id"].to_pylist(), dtype=str), vector_column(table)

    def versions(self) -> list[tuple[int, str]]:
        """Return all versions that can be opened, each with its time, oldest first."""
        return [(int(version["version"]), version["timestamp"].isoformat()) for version in self._dataset.versions()]

    def snapshot(self, name: str) -> None:
        """Keep this version under a name: `compact` leaves its files alone.

        Raises:
            ConfigurationError: the name is in use, or is not valid.
        """
        try:
            self._dataset.tags.create(name, self.version)
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"snapshot {name!r} cannot be made: {error}") from error
        if is_local(self.path):
            tags = self._folder / "_refs" / "tags"
            sync_files(sorted(tags.iterdir()), self._to_disk)
            self._to_disk(tags.parent)
            self._to_disk(self._folder)

    def snapshots(self) -> dict[str, int]:
        """Return the versions that `snapshot` named, by name."""
        return {name: int(tag["version"]) for name, tag in self._dataset.tags.list().items()}

    def restore(self) -> "ProductTable":
        """Commit this version's rows as the newest version; the versions between stay readable."""
        newest = lance.dataset(self.path, version=self.version)
        with _reports_storage(self.path):
            newest.restore()
        table = self.latest()
        table._sync_commit()
        return table

    def sync(self) -> None:
        """Return once this version would survive a power loss, whoever has written it.

        Raises:
            StorageError: it may not.
        """
        with _reports_storage(self.path):
            fragments = self._dataset.get_fragments()
            self._sync_data(fragment.metadata for fragment in fragments)
            self._sync(self._folder / file for fragment in fragments if (file := fragment.deletion_file()) is not None)
            self._sync_commit()

    def check_files(self) -> None:
        """Check that the files with this version's rows are there, and as long as they were written. On a local disk.

        Raises:
            StorageError: one is not.
        """
        if not is_local(self.path):
            return
        for fragment in self._dataset.get_fragments():
            for file in fragment.metadata.files:
                with _reports_storage(self.path):
                    size = (self._folder / "data" / file.path).stat().st_size
                if file.file_size_bytes not in (None, size):
                    raise StorageError(
                        f"{file.path} of product table {self.path} has {size:,} bytes, not {file.file_size_bytes:,}: "
                        "restore it"
                    )

    def compact(self, keep: timedelta = timedelta(days=7)) -> "ProductTable":
        """Merge small files, remove superseded rows or mark them as deleted, and delete unnamed versions.

        `catalog.compaction` says which files are written again, `catalog.retention` which versions are deleted.

        Others may read and write meanwhile. Where another process compacted at the same time, this one does nothing.
        """
        table = self.latest()
        with _reports_storage(self.path), _tolerates_conflict():
            table._rewrite()
        table = self.latest()
        table._sync_commit()
        with _reports_storage(self.path):
            table._delete_versions(keep)
        return table

    def needs_compaction(self, key_map: KeyMap, max_files: int) -> bool:
        """Return whether more than `max_files` files are small, or many rows superseded; takes this version's map."""
        _, _, addresses = key_map.arrays()
        return is_due(count_rows(self._dataset, addresses), max_files)

    def _rewrite(self) -> None:
        """Write the files that are due again, and mark the superseded rows of the others, in one atomic commit."""
        _, _, addresses = self.key_map().arrays()
        current = np.sort(addresses)
        files = count_rows(self._dataset, current)
        old = files_to_rewrite(files)
        marked = [file.number for file in files if file.unmarked and file.number not in old]
        if not old and not marked:
            return
        has_rows = np.isin(current >> np.uint64(32), old).any()
        new = write_fragments(compacted_rows(self._dataset, old, current), self._dataset) if has_rows else []
        updated = [self._mark_dead(number, current) for number in marked]
        self._sync_data(new)
        self._sync_deletions(updated)
        lance.LanceDataset.commit(
            self._dataset,
            lance.LanceOperation.Update(removed_fragment_ids=old, updated_fragments=updated, new_fragments=new),
            read_version=self.version,
        )

    def _delete_versions(self, keep: timedelta) -> None:
        outdated = outdated_versions(self._dataset.versions(), keep, datetime.now())  # as Lance's
        if outdated:
            self._dataset.cleanup_old_versions(versions=outdated, error_if_tagged_old_versions=False)

    def _mark_dead(self, number: int, current: NDArray[np.uint64]) -> Any:
        """Write a deletion vector for a file with the addresses of its rows that are not current."""
        dead = ", ".join(map(str, dead_addresses(self._dataset, number, current)))
        return self._dataset.get_fragment(number).delete(f"{ADDRESS} IN ({dead})")

    def _log(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint64]]:
        """Read `log_columns` of all rows, oldest first."""
        rows = self.scan((*LOG, COMPACTED))
        order = np.argsort(~rows[COMPACTED].to_numpy(), kind="stable")
        keys, contents, deleted, addresses = log_columns(rows)
        return keys[order], contents[order], deleted[order], addresses[order]

    def _scan(self, columns: Sequence[str], fragments: Any) -> pa.Table:
        with _reports_storage(self.path):
            return self._dataset.scanner(
                columns=list(columns), fragments=fragments, with_row_address=True, scan_in_order=True
            ).to_table()

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        fields = [self.schema.field(name) for name in columns]
        return pa.schema([*fields, pa.field(ADDRESS, pa.uint64())]).empty_table()

    @property
    def _folder(self) -> Path:
        return Path(self.path.removeprefix("file://"))

    def _manifest(self, version: int) -> Path:
        return self._folder / "_versions" / f"{2**64 - 1 - version:020d}.manifest"

    def _with(self, dataset: Any) -> "ProductTable":
        table = ProductTable.__new__(ProductTable)
        table.path, table._to_disk, table._dataset = self.path, self._to_disk, dataset
        return table

    def _sync_data(self, fragments: Iterable[Any]) -> None:
        """Sync files of rows. They reach the disk before the manifest that lists them: no version lacks its rows."""
        self._sync([self._folder / "data" / file.path for fragment in fragments for file in fragment.files])

    def _sync_deletions(self, fragments: Sequence[Any]) -> None:
        if fragments and is_local(self.path):
            folder = self._folder / "_deletions"
            prefixes = tuple(f"{fragment.id}-{self.version}-" for fragment in fragments)
            self._sync([path for path in folder.iterdir() if path.name.startswith(prefixes)])
            self._to_disk(self._folder)  # it names the folder

    def _sync_commit(self) -> None:
        self._sync([self._manifest(self.version)])

    def _sync(self, files: Iterable[Path]) -> None:
        if is_local(self.path):
            sync_files(files, self._to_disk)

    def _identity_on_disk(self) -> tuple[int, int] | None:
        """Return what changes where the folder of versions is removed and made again; None in an object store."""
        if not is_local(self.path):
            return None
        status = (self._folder / "_versions").stat()
        return status.st_dev, status.st_ino

    def _check_format(self) -> None:
        written = (self.schema.metadata or {}).get(FORMAT_KEY, b"")
        number = int(written) if written.isdigit() else 0
        if number > FORMAT:
            raise SchemaError(
                f"product table {self.path} has format {number}, this galleria reads {FORMAT}: upgrade it"
            )
        if number < 1 or not {"id", *LOG, COMPACTED, "embedding"} <= set(self.schema.names):
            raise SchemaError(
                f"{self.path} is not a product table of this galleria, or older than its first format: remove it, or "
                "choose another path, and make one with 'galleria embed'"
            )

    def _check_schema(self, schema: pa.Schema) -> None:
        if not schema.equals(self.schema):
            raise SchemaError(
                f"rows with the columns {schema.names} do not fit {self.path}: it has {self.schema.names}"
            )
        if (schema.metadata or {}).get(BUNDLE_HASH) != self.bundle_hash.encode():
            raise SchemaError(
                f"the rows' vectors were made with another bundle than {self.bundle_hash[:12]}, that of {self.path}"
            )


def log_columns(
    table: pa.Table,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint64]]:
    """Return keys, contents, whether deleted, and addresses of scanned rows."""
    keys, contents, deleted, addresses = (table[name].to_numpy() for name in (*LOG, ADDRESS))
    return keys, contents, deleted, addresses


def vector_column(table: pa.Table) -> NDArray[np.float32]:
    """Return the column `embedding` as `[N, D]`."""
    column = table["embedding"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no rows
        return np.zeros((0, column.type.list_size), np.float32)
    vectors: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(len(table), column.type.list_size)


def _rows_of(fragments: Sequence[Any]) -> tuple[list[tuple[int, int]], list[str]]:
    """Return what is equal for equal rows: ids may repeat in a backup that is written to again, files do not."""
    return [(part.fragment_id, part.num_deletions) for part in fragments], _last_files(fragments)


def _last_files(fragments: Sequence[Any]) -> list[str]:
    """Return the names of the last fragment's files, which are never used twice."""
    return [file.path for file in fragments[-1].data_files()] if fragments else []


def _exists(path: str) -> bool:
    try:
        lance.dataset(path)
    except (ValueError, OSError):
        return False
    return True


@contextlib.contextmanager
def _tolerates_conflict() -> Iterator[None]:
    """Log a conflict: of two processes that compact at the same time, one fails to commit."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if "conflict" not in str(error).lower():
            raise
        logger.warning("the product table was compacted by another process meanwhile: %s", error)


@contextlib.contextmanager
def _reports_storage(path: str) -> Iterator[None]:
    """Raise errors of the storage, for which Lance has no class of its own, as those that a caller can tell apart."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise CatalogFullError(f"{path} is on a full disk: free some space; reads still work") from error
        if isinstance(error, OSError) or "LanceError(IO)" in str(error):
            raise StorageError(f"the storage of product table {path} failed: try again ({str(error)[:200]})") from error
        raise
