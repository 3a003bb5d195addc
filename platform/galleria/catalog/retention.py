"""Selects the versions of a table that are deleted: by their age, by their number, and those within a run of appends.

Commits, and looking for the newest version, take longer the more versions there are: on a local disk about 3 ms more
for each thousand. Of the versions that nobody named these are kept:

- the newest `MAX_VERSIONS`, unless they were replaced by a newer one longer than `keep` ago;
- of those that were replaced within `READER_TIME` the last before rows were moved or removed. A version before an
  append needs no more files than the one after it, so that processes that have it open read on when it is deleted.
"""

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

MAX_VERSIONS = 1000
"""Versions that can be opened, in addition to those that are kept for readers."""

READER_TIME = timedelta(hours=1)
"""How long replicas and index builds may read a version after the next one was written."""


def outdated_versions(versions: Sequence[Mapping[str, Any]], keep: timedelta, now: datetime) -> list[int]:
    """Return the numbers of the versions to delete, which may include named ones.

    Args:
        versions: of `LanceDataset.versions`, oldest first.
        keep: how long after the next one a version without a name is kept.
        now: local time.
    """
    outdated = []
    for index, (version, following) in enumerate(itertools.pairwise(versions)):
        replaced = following["timestamp"]
        recent = index >= len(versions) - MAX_VERSIONS
        needed = replaced >= now - READER_TIME and not _is_append(version, following)
        if replaced < now - keep or not (recent or needed):
            outdated.append(int(version["version"]))
    return outdated


def _is_append(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a version has the files of the one before it, and more."""
    files, rows, marked = (
        [int(version["metadata"][name]) for version in (before, after)]
        for name in ("total_data_files", "total_data_file_rows", "total_deletion_file_rows")
    )
    return files[0] < files[1] and rows[0] < rows[1] and marked[0] == marked[1]
