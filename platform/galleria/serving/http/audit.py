"""Who wrote what: one line of JSON for every write that was answered."""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

from starlette.requests import Request

from galleria.pipelines.releases import Alias
from galleria.serving.schemas.responses import WriteResponse

logger = logging.getLogger("ray.serve")

IDS = 20
"""Ids of one write that the log names."""


class AuditLog:
    """Writes to Serve's log, and to a file where one is named.

    Args:
        file: its path, or "".
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file) if file else None

    def written(self, request: Request, answer: WriteResponse) -> None:
        """Log a write of items."""
        self._log(
            request,
            version=answer.version,
            items=len(answer.items),
            ids=[item.id for item in answer.items[:IDS]],
            statuses=sorted({item.status for item in answer.items}),
        )

    def switched(self, request: Request, name: str, alias: Alias) -> None:
        """Log that a name stands for another release."""
        self._log(request, alias=name, **alias.model_dump())

    def _log(self, request: Request, **what: Any) -> None:
        told = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "request_id": request.state.request_id,
            "key": request.state.key,
            "client": request.client.host if request.client else "",
            "method": request.method,
            **what,
        }
        line = json.dumps(told, ensure_ascii=False)
        logger.info("audit %s", line)
        if self._file is None:
            return
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:  # what was written is written, and the answer must say so; the line above has it
            logger.exception("the audit file %s cannot be written to", self._file)
