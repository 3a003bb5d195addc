"""The example that searches over HTTP, against the service that the other tests use."""

from pathlib import Path

import pytest

from examples import search_over_http
from tests.drawings import drawing

pytestmark = pytest.mark.ray


def test_search_over_http(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture = tmp_path / "thing.png"
    picture.write_bytes(drawing(7))

    search_over_http.main(address, picture)

    printed = capsys.readouterr().out
    assert [line.split(",")[0] for line in printed.splitlines() if line.endswith(" ms:")] == [
        "by words",
        "by picture",
        "more like it",
    ]
    assert printed.count("\n  ") == 9, "hits"
    assert "written: created in version " in printed
    assert "problem: 422 k: " in printed
