"""Annotation files become rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from galleria.errors import DataError
from tests.pipelines.readers.files import rows_of, touch


def annotations(**database: Any) -> str:
    return json.dumps({"version": "1.3", "database": database})


def test_file_names_videos_subsets_events(tmp_path: Path) -> None:
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


def test_missing_videos_ask_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "clips.json").write_text(annotations(one={"annotations": []}, two={"annotations": []}))

    with pytest.raises(DataError, match=r"none of the 2 videos of .*clips\.json is in .*: add --videos FOLDER"):
        rows_of(tmp_path / "clips.json", "video_event")


@pytest.mark.parametrize("content", ["", "[]", '{"database": 3}', '{"database": {"a": {"annotations": [{}]}}}', "{"])
def test_other_json_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "clips.json").write_text(content)

    with pytest.raises(DataError, match="is not an ActivityNet annotation file"):
        rows_of(tmp_path / "clips.json", "video_event")
