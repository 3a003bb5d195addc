"""Folders of pictures and videos become rows."""

from pathlib import Path

import pytest

from galleria.errors import ConfigurationError
from galleria.pipelines.readers.files import read_file
from galleria.pipelines.splits import split_of
from tests.drawings import drawing
from tests.pipelines.readers.files import read, rows_of, touch


def test_folders_are_split_and_category(tmp_path: Path) -> None:
    touch(tmp_path, "train/shoes/boots/a.jpg", "val/shoes/b.PNG", "testing/hats/c.webp", "notes.txt", "train/list.csv")

    rows = rows_of(tmp_path, "text_guided")

    assert [(row["id"], row["split"], row["category"]) for row in rows] == [
        ("testing/hats/c.webp", "test", ["hats"]),
        ("train/shoes/boots/a.jpg", "train", ["shoes", "boots"]),
        ("val/shoes/b.PNG", "validation", ["shoes"]),
    ]
    assert rows[1]["image"] == str(tmp_path / "train/shoes/boots/a.jpg")
    assert rows[1]["product_id"] == "train/shoes/boots/a"


def test_product_folder_shares_a_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"shirt {number}/{side}.png" for number in range(30) for side in ("front", "back")))

    rows = rows_of(tmp_path, "text_guided", label="product_id")

    assert {row["product_id"] for row in rows} == {f"shirt {number}" for number in range(30)}
    assert all(row["split"] == split_of(row["product_id"]) for row in rows)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_video_folders_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.mp4", "walk/b.MOV", "walk/cover.jpg", "c.webm")

    rows = rows_of(tmp_path, "video_event", label="events")

    assert [(row["id"], row.get("events")) for row in rows] == [
        ("c.webm", None),
        ("jump/a.mp4", ["jump"]),
        ("walk/b.MOV", ["walk"]),
    ]


def test_contour_map_belongs_to_its_picture(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.contour.png", "b.png")

    rows = rows_of(tmp_path, "contour")

    assert [row["id"] for row in rows] == ["a.jpg", "b.png"]
    assert rows[0]["contour"] == str(tmp_path / "a.contour.png")
    assert "contour" not in rows[1]


def test_unknown_label_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"label 'colour' is not a column of text_guided: choose one of category"
    ):
        rows_of(touch(tmp_path, "a/b.png"), "text_guided", label="colour")


def test_folder_on_a_store_is_named_by_uri(tmp_path: Path) -> None:
    touch(tmp_path, "hats/a.png")

    [row] = rows_of(f"file://{tmp_path}", "text_guided")

    assert row["image"] == f"file://{tmp_path}/hats/a.png"
    assert read_file(row["image"]) == drawing(len("hats/a.png"))


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    root = touch(
        tmp_path / ".cache",
        "shoes/a.jpg",
        "shoes/.ipynb_checkpoints/a-checkpoint.jpg",
        ".Trash-1000/files/old.jpg",
        "shoes/._a.jpg",
        "__MACOSX/shoes/a.jpg",
        "shoes/Thumbs.db",
        "shoes/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    )

    rows, [notice] = read(root, "aesthetic_emotion", label="emotion")

    assert [(row["id"], row["emotion"]) for row in rows] == [("shoes/a.jpg", "shoes")]
    assert notice.kept
    assert "5 hidden files are left out, such as .Trash-1000/files/old.jpg" in notice.reason


def test_splits_have_products_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "train/shoes/001.jpg", "test/shoes/001.jpg")

    rows = rows_of(tmp_path, "category_tree")

    assert [(row["product_id"], row["category"]) for row in rows] == [
        ("test/shoes/001", ["shoes"]),
        ("train/shoes/001", ["shoes"]),
    ]
