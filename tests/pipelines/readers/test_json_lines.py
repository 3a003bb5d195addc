"""JSON lines become rows."""

from pathlib import Path

import pytest

from galleria.errors import DataError
from tests.pipelines.readers.files import read, rows_of


def test_values_keep_their_text(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_text(
        '{"id": "007", "image": "a.jpg", "product_id": 1.10, "category": ["home", "pans"], "title": "2020-01-02"}\n'
        '{"id": 12345678901234567890, "image": "b.jpg", "product_id": "x", "category": "home > pots", "title": null}\n'
        '{"id": "c", "image": "c.jpg", "product_id": true, "category": null}\n'
    )

    rows = rows_of(path, "text_guided")

    assert [row["id"] for row in rows] == ["007", "12345678901234567890", "c"]
    assert [row["product_id"] for row in rows] == ["1.10", "x", "true"]
    assert [row.get("category") for row in rows] == [["home", "pans"], ["home", "pots"], None]
    assert rows[0]["title"] == "2020-01-02"


def test_lines_that_are_not_objects_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "shop.ndjson").write_bytes(
        b'{"id": "a", "image": "a.jpg"}\n\n{"id": \n[1]\n{"id": "\xff"}\n'
        + b"[" * 100_000
        + b'\n{"id": "b", "image": "b"}'
    )

    rows, rejects = read(tmp_path / "shop.ndjson", "contour")

    assert [row["id"] for row in rows] == ["a", "b"]
    assert [reject.line for reject in rejects] == [3, 4, 5, 6]
    assert all("is not a JSON object" in reject.reason for reject in rejects)


def test_file_without_objects_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "shop.jsonl").write_text("\n[]\n")

    with pytest.raises(DataError, match="holds no JSON object: it must have one a line"):
        rows_of(tmp_path / "shop.jsonl", "contour")
