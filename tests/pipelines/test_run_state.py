"""A run is resumed from its newest readable checkpoint, and with its own recipe."""

import json
from pathlib import Path

import pytest
import torch

from galleria.errors import ConfigurationError, GalleriaError
from galleria.families.text_guided.recipes import debug
from galleria.pipelines.run_state import RECIPE_FILE, STATE_FILE, check_recipe, newest_state, save_recipe


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two checkpoints, oldest first."""
    made = []
    for number in range(2):
        made.append(tmp_path / f"checkpoint_{number}")
        made[-1].mkdir()
        torch.save({"number": number, "weights": torch.zeros(1000)}, made[-1] / STATE_FILE)
    return made


def test_newest_state_is_used(folders: list[Path]) -> None:
    warned: list[str] = []

    assert newest_state(folders, warned.append)[0]["number"] == 1
    assert warned == []


@pytest.mark.parametrize("kept", [None, 0, 1, 100, 2000, -1, -100])
def test_cut_state_falls_back_with_warning(folders: list[Path], kept: int | None) -> None:
    newest = folders[1] / STATE_FILE
    content = newest.read_bytes()
    newest.unlink()
    if kept is not None:
        newest.write_bytes(content[:kept])
    warned: list[str] = []

    state, number = newest_state(folders, warned.append)

    assert (state["number"], number) == (0, 0)
    assert len(warned) == 1
    assert f"{folders[1]} is damaged, the one before it is used" in warned[0]


def test_no_readable_state_is_an_error(folders: list[Path]) -> None:
    for folder in folders:
        (folder / STATE_FILE).write_bytes(b"")

    with pytest.raises(GalleriaError, match="no checkpoint of this run can be read: train anew in another --out"):
        newest_state(folders, lambda _: None)


def test_recipe_of_older_version_is_read(tmp_path: Path) -> None:
    save_recipe(debug(), tmp_path)
    saved = json.loads((tmp_path / RECIPE_FILE).read_bytes())
    del saved["model"]["sampled_classes"], saved["sampling"]["views"]
    (tmp_path / RECIPE_FILE).write_text(json.dumps(saved))

    check_recipe(debug(), tmp_path)


def test_changed_recipe_fields_are_named(tmp_path: Path) -> None:
    save_recipe(debug(), tmp_path)
    optimization = debug().optimization.model_copy(update={"learning_rate": 0.5, "rates": {"text": 0.0}})

    with pytest.raises(ConfigurationError) as raised:
        check_recipe(debug().model_copy(update={"optimization": optimization, "seed": 7}), tmp_path)

    message = str(raised.value)
    assert "optimization.learning_rate (was" in message
    assert "is 0.5)" in message
    assert "optimization.rates.text" in message
    assert "seed (was 0, is 7)" in message
    assert "sampling" not in message.split("Resume it", maxsplit=1)[0]


def test_epochs_and_patience_may_change(tmp_path: Path) -> None:
    save_recipe(debug(), tmp_path)
    stopping = debug().stopping.model_copy(update={"epochs": 99, "patience": 9})

    check_recipe(debug(), tmp_path)
    check_recipe(debug().model_copy(update={"stopping": stopping}), tmp_path)


def test_run_without_recipe_is_resumed(tmp_path: Path) -> None:
    check_recipe(debug(), tmp_path)
