"""Files for the readers, and the rows that become of them."""

from pathlib import Path
from typing import Any

from galleria.learn.family import load_family
from galleria.pipelines.readers import ReadOptions, read_parts
from galleria.pipelines.rejects import Reject
from tests.drawings import drawing


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(drawing(len(name)))
    return folder


def read(path: Path | str, family: str, **options: Any) -> tuple[list[dict[str, Any]], list[Reject]]:
    """The rows, pictures as their contents or paths, and what was reported."""
    rejects: list[Reject] = []
    parts = list(read_parts(str(path), load_family(family), ReadOptions(**options), rejects.append))
    assert len({part.schema for part in parts}) == 1
    rows = [{name: picture(value) for name, value in row.items()} for part in parts for row in part.to_pylist()]
    return rows, rejects


def picture(value: Any) -> Any:
    if isinstance(value, dict) and "bytes" not in value:
        return value
    return (value["path"] if value["bytes"] is None else value["bytes"]) if isinstance(value, dict) else value


def rows_of(path: Path | str, family: str, **options: Any) -> list[dict[str, Any]]:
    """The rows of a source of which everything is read; empty cells are left out."""
    rows, rejects = read(path, family, **options)
    assert rejects == []
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
