"""Rows that could not be used, with the reason: collected from every worker, written beside the result."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "rejects.jsonl"


@dataclass(frozen=True)
class Reject:
    """One row that was left out, or used in part.

    Attributes:
        id: the row's id, or its place where it has none.
        reason: what is wrong and how to mend it.
        row: its place in the data set, from 0, where that is known.
        kept: the row is used all the same, without the part that is missing.
    """

    id: str
    reason: str
    row: int | None = None
    kept: bool = False


def write_rejects(folder: Path, rejects: list[Reject]) -> Path:
    """Write `rejects.jsonl`, each row once, sorted by id; an empty file says that every row was good."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    rows = sorted(set(rejects), key=lambda reject: (reject.id, reject.row or 0, reject.reason))
    path.write_text("".join(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rows))
    return path
