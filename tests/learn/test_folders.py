"""A finished folder takes its place whole."""

import pytest

from galleria.learn.folders import replace_folder


def folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_folder_moves_to_a_free_place(tmp_path):
    replace_folder(folder(tmp_path / "made", "new"), tmp_path / "place")

    assert (tmp_path / "place" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    folder(tmp_path / "place", "old")

    replace_folder(folder(tmp_path / "made", "new"), tmp_path / "place")

    assert (tmp_path / "place" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_move(tmp_path):
    folder(tmp_path / "place", "old")

    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "never made", tmp_path / "place")

    assert (tmp_path / "place" / "file").read_text() == "old"
