"""Converts a user's files to the parquet that all pipelines read, with the pictures in it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galleria.errors import ConfigurationError, DataError
from galleria.learn.family import Family
from galleria.media.fetch import Fetcher, FetchOptions, is_url
from galleria.pipelines.cluster import ray_cluster
from galleria.pipelines.readers import ReadOptions, crops, read_parts
from galleria.pipelines.readers.cells import FILE
from galleria.pipelines.readers.files import read_file
from galleria.pipelines.rejects import Reject, write_rejects

ROWS_PER_FILE = 4096
"""Where pictures are in it."""
LISTED_ROWS_PER_FILE = 1 << 20
BYTES_PER_FILE = 256 << 20
UNIQUE_COLUMNS = ("id", "video", "image", "contour", "title", "text")
FETCHING_THREADS = 8
"""Of one Ray task, which read the pictures of a batch."""
FETCH_OPTIONS = FetchOptions()


def convert(
    path: str,
    family: Family[Any],
    options: ReadOptions,
    out: Path,
    fetch: FetchOptions = FETCH_OPTIONS,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> tuple[int, list[Reject]]:
    """Write the rows of `read_parts` to the folder `out`; videos are not copied, but named by their paths.

    Rows are written as they are read. Only pictures that are named by their paths or URLs are read afterwards, by Ray
    Data.

    Args:
        path: of the source.
        family: its columns are those of the rows.
        options: how the source becomes rows.
        out: folder of the parquet files.
        fetch: how pictures are fetched that are named by URLs.
        progress: is called with the number of rows that were read, and of those whose pictures are to be read.

    Returns:
        Number of rows written; the rows that are left out, and notices of the source, also in `out/../rejects.jsonl`.

    Raises:
        DataError: the source cannot be read, or no row is left.
        ConfigurationError: `out` exists, or an option names a column that the family does not have.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists already: remove it, or choose another --out")
    rejects: list[Reject] = []
    unfinished = out.absolute().with_name(f".{out.name}.partial")
    listed = out.absolute().with_name(f".{out.name}.listed")
    try:
        with _Writer(unfinished, LISTED_ROWS_PER_FILE) as complete, _Writer(listed, ROWS_PER_FILE) as to_load:
            for part in read_parts(path, family, options, rejects.append):
                if _names_files(part):
                    to_load.write(part)
                else:
                    complete.write(_contents(part))
                progress(to_load.rows + complete.rows, None)
        if to_load.rows:
            _load(listed, unfinished, rejects, fetch, lambda done: progress(done, to_load.rows))
        rows = sum(pq.read_metadata(file).num_rows for file in unfinished.glob("*.parquet"))
        if not rows:
            source = f"file of {path} can be read" if to_load.rows else f"row of {path} can be used"
            reason = next((reject.reason for reject in rejects if not reject.kept), "it has none")
            raise DataError(f"no {source}; the first reason: {reason}")
        unfinished.rename(out)
        write_rejects(out.parent, rejects)
    except DataError:
        if rejects:
            write_rejects(out.parent, rejects)
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(listed, ignore_errors=True)
    return rows, rejects


class _Writer:
    """Writes tables of one schema to the files of a folder, in a thread, while the next table is read."""

    def __init__(self, folder: Path, rows_per_file: int) -> None:
        self.rows = 0
        """Number of rows written."""
        self._folder = folder
        self._rows_per_file = rows_per_file
        self._files = 0
        self._file: pq.ParquetWriter | None = None
        self._file_rows = self._file_bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed

    def write(self, table: pa.Table) -> None:
        """Append rows to the newest file, or to new ones."""
        self.rows += len(table)
        self._wait()
        self._writing = self._thread.submit(self._write_all, table)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write_all(self, table: pa.Table) -> None:
        for start in range(0, len(table), self._rows_per_file):
            self._write(table.slice(start, self._rows_per_file))

    def _write(self, table: pa.Table) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"part-{self._files:05d}.parquet"
            self._file = pq.ParquetWriter(path, table.schema, use_dictionary=_repeated_columns(table.schema))
            self._files += 1
        self._file.write_table(table)
        self._file_rows += len(table)
        self._file_bytes += table.nbytes
        if self._file_rows >= self._rows_per_file or self._file_bytes >= BYTES_PER_FILE:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._file_rows = self._file_bytes = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with self._thread:
            self._wait()
        self._close()


def _repeated_columns(schema: pa.Schema) -> list[str]:
    """Return the columns whose values repeat, as parquet names them: others are not worth a dictionary."""
    names = [field for field in schema if field.type != FILE and field.name not in UNIQUE_COLUMNS]
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in names]


def _file_columns(part: pa.Table) -> Iterator[tuple[int, str]]:
    return ((index, field.name) for index, field in enumerate(part.schema) if field.type == FILE)


def _names_files(part: pa.Table) -> bool:
    """Whether any picture is not in the table, but named by its path, or is to be cut."""
    if crops.COLUMN in part.column_names:
        return True
    for _, name in _file_columns(part):
        contents, paths = pc.struct_field(part[name], "bytes"), pc.struct_field(part[name], "path")
        if pc.any(pc.and_(pc.is_null(contents), pc.is_valid(paths))).as_py():
            return True
    return False


def _contents(part: pa.Table) -> pa.Table:
    """Return a part with the contents of its pictures alone."""
    for index, name in _file_columns(part):
        part = part.set_column(index, name, pc.struct_field(part[name], "bytes"))
    return part


def _load(listed: Path, out: Path, rejects: list[Reject], fetch: FetchOptions, progress: Callable[[int], None]) -> None:
    """Read the pictures that rows name, by Ray Data, and write the rows to `out`."""
    import ray.data
    from ray.util.queue import Empty, Queue

    with ray_cluster():
        messages = Queue(actor_options={"num_cpus": 0})

        def load(part: pa.Table) -> pa.Table:
            good, bad = _read_files(part, Fetcher(fetch))
            messages.put((len(part), bad))
            return good

        rows = ray.data.read_parquet(str(listed)).map_batches(load, batch_format="pyarrow", batch_size=256)
        done = 0
        with ThreadPoolExecutor(1) as thread:
            writing = thread.submit(rows.write_parquet, str(out), min_rows_per_file=ROWS_PER_FILE)
            while not (writing.done() and messages.empty()):
                with contextlib.suppress(Empty):
                    count, bad = messages.get(timeout=0.5)
                    rejects += bad
                    done += count
                    progress(done)
            writing.result()
        messages.shutdown()


def _read_files(part: pa.Table, fetcher: Fetcher) -> tuple[pa.Table, list[Reject]]:
    """Return a part with the contents of its pictures, without the rows whose files cannot be read."""
    reasons: dict[int, str] = {}
    for index, name in _file_columns(part):
        with ThreadPoolExecutor(FETCHING_THREADS) as threads:
            results = list(threads.map(partial(_content, fetcher=fetcher), part[name].to_pylist()))
        contents = [None if isinstance(result, DataError) else result for result in results]
        for number, result in enumerate(results):
            if isinstance(result, DataError):
                reasons.setdefault(number, str(result))
        part = part.set_column(index, name, pa.array(contents, pa.binary()))
    part = _cut(part, reasons)
    rejects = [Reject(part["id"][number].as_py() or "", reason) for number, reason in reasons.items()]
    return part.filter(pa.array([number not in reasons for number in range(len(part))], pa.bool_())), rejects


def _cut(part: pa.Table, reasons: dict[int, str]) -> pa.Table:
    """Return a part whose pictures are the contents of their boxes; adds to the rows that cannot be used."""
    if crops.COLUMN not in part.column_names:
        return part
    contents = part["image"].to_pylist()
    for number, value in enumerate(part[crops.COLUMN].to_pylist()):
        if value is not None and contents[number] is not None:
            try:
                contents[number] = crops.cut(contents[number], value)
            except DataError as error:
                reasons.setdefault(number, str(error))
    image = part.column_names.index("image")
    return part.set_column(image, "image", pa.array(contents, pa.binary())).drop_columns(crops.COLUMN)


def _content(file: dict[str, Any] | None, fetcher: Fetcher) -> bytes | DataError | None:
    """Return the content of a file, or why it cannot be read."""
    if file is None or file["bytes"] is not None:
        return None if file is None else bytes(file["bytes"])
    try:
        return fetcher.fetch(file["path"]) if is_url(file["path"]) else read_file(file["path"])
    except DataError as error:
        return error
