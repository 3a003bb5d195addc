"""Keeps a write from being acknowledged that a catalogue lacks to which an alias resolves by then."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from galleria.errors import ConfigurationError, ReleaseChangedError, StorageError
from galleria.pipelines.releases import Alias, read_alias, read_release
from galleria.serving.config import SEARCH, ServiceConfig


class ReleaseFence:
    """Compares the tables of a write with those of the releases that the alias resolves to now.

    A gateway learns of a new release later than the folder, and loads it first: until then it sends its writes to the
    previous release's table alone.

    Args:
        config: of the service. Where it follows no aliases, every write passes.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._folder = Path(config.releases) if config.releases else None
        self._resolved: tuple[Alias, frozenset[str]] | None = None

    async def check(self, tables: Collection[str]) -> None:
        """Check that a write to these tables is in every table that searches use from now on.

        Raises:
            ReleaseChangedError: it is not.
            StorageError: the alias cannot be read.
        """
        if self._folder is not None:
            await asyncio.to_thread(self._check, self._folder, tables)

    def _check(self, folder: Path, tables: Collection[str]) -> None:
        alias = read_alias(folder, SEARCH)
        if alias is None:
            raise StorageError(f"alias {SEARCH!r} is missing in {folder}: set it again")
        if self._resolved is None or self._resolved[0] != alias:  # releases never change
            try:
                self._resolved = alias, frozenset(read_release(folder, release).table for release in alias.releases)
            except ConfigurationError as error:
                raise ReleaseChangedError(f"alias {SEARCH!r} cannot be used, nothing is written: {error}") from error
        missing = self._resolved[1].difference(tables)
        if missing:
            raise ReleaseChangedError(
                f"alias {SEARCH!r} resolves to {' and '.join(alias.releases)}, which is not loaded here yet: try again"
            )
