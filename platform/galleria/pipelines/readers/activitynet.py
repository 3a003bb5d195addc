"""Reads an ActivityNet annotation file: events of videos."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.task import Row
from galleria.pipelines.readers.files import VIDEO_SUFFIXES, filesystem


@dataclass(frozen=True)
class _Annotation:
    """What the file says of one video."""

    subset: str | None
    events: Sequence[str]


def read_activitynet(files: pyarrow.fs.FileSystem, inside: str, videos: str) -> Iterator[Row]:
    """Yield a row for each video of `{"database": {name: {"subset": …, "annotations": [{"label": …}, …]}}}`.

    Args:
        files: file system of the annotation file.
        inside: path of the annotation file in it.
        videos: folder of the videos, whose files are called `name` or `v_name`.

    Raises:
        DataError: the file is not an annotation file, or none of its videos is in the folder.
    """
    annotations = _read_annotations(files, inside)
    root, found = _find_videos(videos)
    if annotations and not found.keys() & annotations.keys():
        raise DataError(f"none of the {len(annotations)} videos of {inside} is in {root}: add --videos FOLDER")
    for name, annotation in annotations.items():
        file = found.get(name, f"{name}.mp4")  # a missing file is rejected, with this path, where it is opened
        yield {"id": name, "video": f"{root}/{file}", "events": annotation.events, "split": annotation.subset}


def _read_annotations(files: pyarrow.fs.FileSystem, inside: str) -> dict[str, _Annotation]:
    with files.open_input_stream(inside) as stream:
        try:
            database = json.loads(stream.read())["database"]
            return {str(name): _annotation(entry) for name, entry in database.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{inside} is not an ActivityNet annotation file ({type(error).__name__}: {error}): it must hold "
                '{"database": {name: {"subset": …, "annotations": [{"label": …}]}}}'
            ) from error


def _annotation(entry: Any) -> _Annotation:
    labels = {str(annotation["label"]) for annotation in entry.get("annotations") or []}
    return _Annotation(entry.get("subset"), sorted(labels))


def _find_videos(videos: str) -> tuple[str, dict[str, str]]:
    """Return the folder as rows name it, and name of a video → its file, relative to the folder."""
    files, folder = filesystem(videos)
    entries = files.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True))
    names = [entry.path[len(folder) :].lstrip("/") for entry in entries if entry.is_file]
    found = {
        PurePosixPath(name).stem.removeprefix("v_"): name
        for name in names
        if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
    }
    return (videos.rstrip("/") if "://" in videos else folder), found
