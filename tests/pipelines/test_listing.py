"""What people have on disk becomes rows: folders, tables, annotation files, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.learn.family import load_family
from galleria.pipelines.listing import ReadOptions, list_rows, read_file
from galleria.pipelines.splits import split_of
from tests.drawings import drawing


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(drawing(len(name)))
    return folder


def rows_of(path: Path, family: str, **reading: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in list_rows(str(path), load_family(family), ReadOptions(**reading))]


def test_folders_are_the_category_path_and_the_first_may_be_the_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/shoes/boots/a.jpg", "val/shoes/b.PNG", "testing/hats/c.webp", "notes.txt", "train/list.csv")

    rows = rows_of(tmp_path, "text_guided")

    assert [(row["id"], row["split"], row["category"]) for row in rows] == [
        ("testing/hats/c.webp", "test", ["hats"]),
        ("train/shoes/boots/a.jpg", "train", ["shoes", "boots"]),
        ("val/shoes/b.PNG", "validation", ["shoes"]),
    ]
    assert rows[1]["image"] == str(tmp_path / "train/shoes/boots/a.jpg")
    assert rows[1]["product_id"] == "shoes/boots/a"


def test_a_folder_may_name_the_product_and_its_pictures_share_a_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"shirt {number}/{side}.png" for number in range(30) for side in ("front", "back")))

    rows = rows_of(tmp_path, "text_guided", label="product_id")

    assert {row["product_id"] for row in rows} == {f"shirt {number}" for number in range(30)}
    assert all(row["split"] == split_of(row["product_id"]) for row in rows)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_a_folder_of_videos_is_labelled_by_its_folders(tmp_path: Path) -> None:
    touch(tmp_path, "jump/a.mp4", "walk/b.MOV", "walk/cover.jpg", "c.webm")

    rows = rows_of(tmp_path, "video_event", label="events")

    assert [(row["id"], row.get("events")) for row in rows] == [
        ("c.webm", None),
        ("jump/a.mp4", ["jump"]),
        ("walk/b.MOV", ["walk"]),
    ]


def test_a_contour_map_is_found_beside_its_picture(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.contour.png", "b.png")

    rows = rows_of(tmp_path, "contour")

    assert [row["id"] for row in rows] == ["a.jpg", "b.png"]
    assert rows[0]["contour"] == str(tmp_path / "a.contour.png")
    assert rows[1]["contour"] is None


def test_a_label_that_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"label 'colour' is no column of text_guided: choose one of category"):
        rows_of(touch(tmp_path, "a/b.png"), "text_guided", label="colour")


def test_a_table_has_a_column_for_every_level_and_paths_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text(
        "sku,file,department,kind,description,set\n"
        '7,pictures/7.jpg,clothes,"shirts, plain",A white shirt,train\n'
        "8,/elsewhere/8.jpg,clothes,,,test\n"
        "9,s3://shop/9.jpg,shoes,boots,Boots,\n"
    )
    columns = {"id": "sku", "image": "file", "product_id": "sku", "text": "description", "split": "set"}

    rows = rows_of(tmp_path / "products.csv", "text_guided", columns=columns, levels=["department", "kind"])

    assert rows[0] == {
        "id": "7",
        "image": f"{tmp_path}/pictures/7.jpg",
        "product_id": "7",
        "text": "A white shirt",
        "category": ["clothes", "shirts, plain"],
        "split": "train",
    }
    assert (rows[1]["image"], rows[1]["category"], rows[1]["split"]) == ("/elsewhere/8.jpg", ["clothes"], "test")
    assert (rows[2]["image"], rows[2]["split"]) == ("s3://shop/9.jpg", split_of("9"))


def test_a_cell_with_several_values_is_split_where_the_column_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("id,video,events\na,a.mp4,jump; walk\nb,b.mp4,\n")

    rows = rows_of(tmp_path / "clips.csv", "video_event")

    assert rows[0]["events"] == ["jump", "walk"]
    assert rows[1].get("events") in (None, [])


def test_a_parquet_table_is_read_as_a_csv_is_and_keeps_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    table = {"id": ["a"], "image": ["a.png"], "product_id": ["p"], "category": [["x", "y"]]}
    pq.write_table(pa.table(table), path)

    [row] = rows_of(path, "text_guided")

    assert (row["image"], row["category"]) == (f"{tmp_path}/a.png", ["x", "y"])


def test_a_table_without_the_pictures_column_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,file\n1,a.jpg\n")

    with pytest.raises(SchemaError, match=r"no column 'image': say --column image=NAME.*its columns: id, file"):
        rows_of(tmp_path / "products.csv", "text_guided")
    with pytest.raises(SchemaError, match="no column 'kind'"):
        rows_of(tmp_path / "products.csv", "text_guided", columns={"image": "file"}, levels=["kind"])


def annotations(**database: Any) -> str:
    return json.dumps({"version": "1.3", "database": database})


def test_an_activitynet_file_names_videos_subsets_and_events(tmp_path: Path) -> None:
    touch(tmp_path, "clips/v_one.mp4", "clips/more/two.mkv")
    marked = [{"segment": [0.0, 2.5], "label": "Jump"}, {"segment": [3, 4], "label": "Walk"}, {"label": "Jump"}]
    (tmp_path / "clips.json").write_text(
        annotations(
            one={"duration": 9.1, "subset": "training", "annotations": marked},
            two={"subset": "testing", "annotations": []},
            lost={"subset": "validation", "annotations": marked[1:2]},
        )
    )

    rows = rows_of(tmp_path / "clips.json", "video_event", videos=str(tmp_path / "clips"))

    assert [(row["id"], row["split"], row["events"]) for row in rows] == [
        ("one", "train", ["Jump", "Walk"]),
        ("two", "test", []),
        ("lost", "validation", ["Walk"]),
    ]
    assert [row["video"] for row in rows] == [
        str(tmp_path / name) for name in ("clips/v_one.mp4", "clips/more/two.mkv", "clips/lost.mp4")
    ]


def test_annotations_whose_videos_lie_elsewhere_ask_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "clips.json").write_text(annotations(one={"annotations": []}, two={"annotations": []}))

    with pytest.raises(DataError, match=r"none of the 2 videos of .*clips\.json is in .*: say --videos FOLDER"):
        rows_of(tmp_path / "clips.json", "video_event")


def test_a_column_that_the_family_does_not_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,image,tint\n1,a.jpg,red\n")

    with pytest.raises(ConfigurationError, match="unknown column 'colour': text_guided reads category, id, image"):
        rows_of(tmp_path / "products.csv", "text_guided", columns={"colour": "tint"})


@pytest.mark.parametrize("content", ["", "[]", '{"database": 3}', '{"database": {"a": {"annotations": [{}]}}}', "{"])
def test_another_json_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "clips.json").write_text(content)

    with pytest.raises(DataError, match="is not an ActivityNet annotation file"):
        rows_of(tmp_path / "clips.json", "video_event")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "there is nothing at"),
        ("a.xlsx", b"PK", r"is no \.csv, \.tsv, \.parquet or \.json file"),
        ("a.parquet", b"PAR0", "cannot be read as parquet"),
        ("a.csv", b"a,b\n1\n", "cannot be read as csv"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name, "text_guided")


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(DataError, match=r"shop://products cannot be reached .*: use a local path, s3://"):
        list_rows("shop://products", load_family("text_guided"), ReadOptions())


def test_an_empty_folder_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing to read for text_guided: it reads id, image"):
        rows_of(tmp_path, "text_guided")


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost\.jpg cannot be read .*: mend the path"):
        read_file(str(tmp_path / "lost.jpg"))


def test_folders_on_an_object_store_are_named_by_uri(tmp_path: Path) -> None:
    touch(tmp_path, "hats/a.png")

    [row] = list_rows(f"file://{tmp_path}", load_family("text_guided"), ReadOptions())

    assert row["image"] == f"file://{tmp_path}/hats/a.png"
    assert read_file(row["image"]) == drawing(len("hats/a.png"))
