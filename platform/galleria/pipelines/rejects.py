"""Rows that could not be used, with the reason: collected from every worker, written next to the result."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REJECTS_FILE = "rejects.jsonl"


@dataclass(frozen=True)
class Reject:
    """One row that was left out, or used in part.

    Attributes:
        id: the row's id; empty if it has none.
        reason: what is wrong and how to fix it.
        row: its number in the data set, from 0, if known.
        kept: whether the row is used, without the missing part.
        line: of the text file that it is in, from 1, if known.
    """

    id: str
    reason: str
    row: int | None = None
    kept: bool = False
    line: int | None = None


def write_rejects(folder: Path, rejects: list[Reject]) -> Path:
    """Write `rejects.jsonl`, each row once, sorted by id; an empty file says that every row was good."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REJECTS_FILE
    rows = sorted(set(rejects), key=lambda reject: (reject.id, reject.row or 0, reject.line or 0, reject.reason))
    path.write_text("".join(json.dumps(_fields(reject), ensure_ascii=False) + "\n" for reject in rows))
    return path


def _fields(reject: Reject) -> dict[str, Any]:
    fields = asdict(reject)
    return fields if reject.line is not None else {name: value for name, value in fields.items() if name != "line"}
