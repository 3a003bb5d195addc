"""The examples run as they are. tests/families/test_seventh_family.py runs examples/add_a_family."""

from pathlib import Path

import pytest

from examples import train_on_your_table
from galleria.learn.bundle import Bundle


@pytest.mark.ray
@pytest.mark.slow
def test_train_on_your_table(ray_instance: None, clean_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train_on_your_table.main(clean_data, tmp_path / "run")

    printed = capsys.readouterr().out
    assert "R@1: " in printed
    assert ", 0 rows rejected" in printed
    assert printed.count(" Thing ") == 3, "hits"
    assert Bundle.open(tmp_path / "run" / "bundle").family.name == "text_guided"
