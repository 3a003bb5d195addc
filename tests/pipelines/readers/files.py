"""Files for the readers, and the rows that become of them."""

from pathlib import Path
from typing import Any

from galleria.learn.family import load_family
from galleria.pipelines.readers import ReadOptions, list_rows
from tests.drawings import drawing


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(drawing(len(name)))
    return folder


def rows_of(path: Path, family: str, **options: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in list_rows(str(path), load_family(family), ReadOptions(**options))]
