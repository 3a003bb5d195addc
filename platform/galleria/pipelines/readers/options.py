"""What a user can say about files that are to become rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReadOptions:
    """How files become rows.

    Attributes:
        columns: galleria's name → the table's, where they differ.
        levels: the table's columns that make the category path, root first.
        label: the column that a folder's name fills: its whole path for "category", else the innermost folder.
        videos: folder of the videos that an annotation file names; by default the file's own folder.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[str] = ()
    label: str = "category"
    videos: str | None = None
