"""The reader is chosen by the path; unreadable paths are named."""

from pathlib import Path

import pytest

from galleria.errors import DataError
from galleria.pipelines.readers.files import read_file
from tests.pipelines.readers.files import rows_of


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "there is nothing at"),
        ("a.xlsx", b"PK", r"is not a folder, nor a \.csv, \.tsv, \.txt, \.jsonl, \.parquet or \.json file"),
        ("a.parquet", b"PAR0", "cannot be read as parquet"),
        ("a.csv", b"", "is empty: its first line must name the columns"),
    ],
)
def test_unreadable_path_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name, "text_guided")


def test_unknown_store_is_rejected() -> None:
    with pytest.raises(DataError, match=r"shop://products cannot be reached .*: use a local path, s3://"):
        rows_of("shop://products", "text_guided")


def test_empty_folder_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing to read for text_guided: it reads id, image"):
        rows_of(tmp_path, "text_guided")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost\.jpg cannot be read .*: fix the path"):
        read_file(str(tmp_path / "lost.jpg"))
