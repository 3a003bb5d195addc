"""Reads a folder of pictures or videos, whose sub-folders are splits and labels."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs

from galleria.errors import ConfigurationError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.readers.cells import typed_value
from galleria.pipelines.readers.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, file_columns, media_column
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.rejects import Reject
from galleria.pipelines.splits import SPLIT_ALIASES

HIDDEN_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
"""Apart from names that begin with a dot."""


def read_folder(
    files: pyarrow.fs.FileSystem, inside: str, root: str, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[Row]:
    """Yield a row for each file of `[split/]label/…/file`; `a.contour.png` next to `a.jpg` fills the column "contour".

    What programs and systems hide there (`.ipynb_checkpoints`, `.Trash-1000`, `__MACOSX`) is left out, and counted.

    Args:
        files: file system of the folder.
        inside: path of the folder in it.
        root: begins the paths in the rows.
        family: its columns are those of the rows.
        options: `label` names the column that folders fill.
        report: receives a notice of what is left out.

    Raises:
        ConfigurationError: the family has no such column.
    """
    _check_label(options.label, family)
    names = _file_names(files, inside)
    hidden = [name for name in names if _is_hidden(name) and _is_media(name, family)]
    if hidden:
        reason = f"{len(hidden)} hidden files are left out, such as {hidden[0]}: rename them if they are yours"
        report(Reject("", reason, kept=True))
    names = [name for name in names if not _is_hidden(name)]
    present = set(names)
    for name in names:
        if _is_media(name, family):
            yield _row(name, root, present, family, options.label)


def _check_label(label: str, family: Family[Any]) -> None:
    columns = set(family.schema.names) | {"category"}
    if label not in columns:
        raise ConfigurationError(
            f"the label {label!r} is not a column of {family.name}: choose one of {', '.join(sorted(columns))}"
        )


def _file_names(files: pyarrow.fs.FileSystem, inside: str) -> list[str]:
    """Return the paths of all files below the folder, relative to it and sorted."""
    entries = files.get_file_info(pyarrow.fs.FileSelector(inside, recursive=True))
    return sorted(entry.path[len(inside) :].lstrip("/") for entry in entries if entry.is_file)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in HIDDEN_FOLDERS for part in name.split("/"))


def _map_columns(family: Family[Any]) -> list[str]:
    """Return the columns of maps that belong to a picture, such as its contours."""
    return [name for name in file_columns(family) if name != media_column(family)]


def _is_media(name: str, family: Family[Any]) -> bool:
    """Whether a file is a picture (or a video, where the family reads those), and not a map of a picture."""
    suffixes = VIDEO_SUFFIXES if media_column(family) == "video" else IMAGE_SUFFIXES
    is_map = any(name.endswith(f".{column}.png") for column in _map_columns(family))
    return PurePosixPath(name).suffix.lower() in suffixes and not is_map


def _row(name: str, root: str, present: set[str], family: Family[Any], label: str) -> Row:
    path = PurePosixPath(name)
    split, labels = _split_and_labels(path.parts[:-1])
    row: dict[str, Any] = {"id": name, media_column(family): f"{root}/{name}", "split": split}
    row[label] = labels or None
    if labels and label != "category":
        row[label] = typed_value(labels[-1], family, label)
    for column in _map_columns(family):
        map_name = str(path.with_suffix(f".{column}.png"))
        row[column] = f"{root}/{map_name}" if map_name in present else None
    if "product_id" in family.schema.names and "product_id" not in row:
        row["product_id"] = str(path.with_suffix(""))  # with its split: numbers begin anew in each
    return row


def _split_and_labels(folders: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Return the split that the first folder names, or None, and the folders that are labels."""
    split = SPLIT_ALIASES.get(folders[0].lower()) if folders else None
    return split, list(folders[1:] if split else folders)
