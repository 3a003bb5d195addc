"""The audit log: who wrote what, one line of JSON for every write that was committed."""

import datetime
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from galleria.catalog.writer import WriteResult
from galleria.pipelines.releases import Alias

logger = logging.getLogger("ray.serve")


class Origin(NamedTuple):
    """The request that a write comes from.

    Attributes:
        request_id: that its response has, too.
        key: name of the API key; "" without keys.
        client: address.
        method: "PUT" or "DELETE".
    """

    request_id: str
    key: str
    client: str
    method: str


class AuditLog:
    """Writes to Serve's log, and to a file where one is named.

    Args:
        file: its path; "" for none.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file) if file else None

    def log_write(self, origin: Origin, table: str, ids: Sequence[str], result: WriteResult) -> None:
        """Log a write of items to a product table, apart from those that were rejected."""
        written = [item_id for item_id, status in zip(ids, result.statuses, strict=True) if status != "rejected"]
        if not written and ids:
            return
        self._log(
            origin,
            table=table,
            version=result.version,
            items=len(written),
            ids=written,
            statuses=sorted({*result.statuses} - {"rejected"}),
        )

    def log_alias(self, origin: Origin, name: str, alias: Alias) -> None:
        """Log that an alias was pointed at another release."""
        self._log(origin, alias=name, **alias.model_dump())

    def _log(self, origin: Origin, **fields: Any) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, **origin._asdict(), **fields}, ensure_ascii=False)
        logger.info("audit %s", line)
        if self._file is None:
            return
        try:
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError:  # the write has succeeded, and the response must say so; the line above has the entry
            logger.exception("the audit file %s cannot be written", self._file)
