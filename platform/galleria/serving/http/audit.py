"""The audit log: who wrote what, one line of JSON for every successful write."""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

from starlette.requests import Request

from galleria.pipelines.releases import Alias
from galleria.serving.schemas.responses import WriteResponse

logger = logging.getLogger("ray.serve")

MAX_LOGGED_IDS = 20
"""Ids of one write that are logged."""


class AuditLog:
    """Writes to Serve's log, and to a file where one is named.

    Args:
        file: its path; "" for none.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file) if file else None

    def log_write(self, request: Request, response: WriteResponse) -> None:
        """Log a write of items."""
        self._log(
            request,
            version=response.version,
            items=len(response.items),
            ids=[item.id for item in response.items[:MAX_LOGGED_IDS]],
            statuses=sorted({item.status for item in response.items}),
        )

    def log_alias(self, request: Request, name: str, alias: Alias) -> None:
        """Log that an alias was pointed at another release."""
        self._log(request, alias=name, **alias.model_dump())

    def _log(self, request: Request, **fields: Any) -> None:
        entry = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "request_id": request.state.request_id,
            "key": request.state.key,
            "client": request.client.host if request.client else "",
            "method": request.method,
            **fields,
        }
        line = json.dumps(entry, ensure_ascii=False)
        logger.info("audit %s", line)
        if self._file is None:
            return
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:  # the write has succeeded, and the response must say so; the line above has the entry
            logger.exception("the audit file %s cannot be written", self._file)
