"""What a user can say about files that are to become rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from galleria.pipelines.rejects import Reject

Report = Callable[[Reject], None]
"""Receives rows that cannot be used, and notices (kept rows without an id)."""

NUMBER = "number"
FEEDS = ("google", "meta", "shopify")


@dataclass(frozen=True)
class ReadOptions:
    """How files become rows.

    Attributes:
        columns: galleria's name → the table's, where they differ.
        levels: the table's columns that make the category path, root first.
        label: the column that a folder's name fills: its whole path for "category", else the innermost folder.
        videos: folder of the videos that an annotation file names; by default the file's own folder.
        attributes: the table's columns to write as well, so that `embed --attribute` finds them → `NUMBER` where the
            text is to become a number, or "".
        delimiter: between the cells of a text table; None recognises it.
        encoding: of a text table, as Python names it; None recognises it.
        quote: quotes the cells of a text table; "" is none, None recognises whether there are quotes.
        feed: the specification that names a table's columns: one of `FEEDS`, or None.
        format: name of a data set's layout, or None to recognise it.
        images: folder of the pictures that an annotation file names; by default the file's own folder.
        whole: whether rows with a box are about the whole picture.
        category_separator: between the levels in a cell of the category column; None: " > " where it occurs, or ";".
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[str] = ()
    label: str = "category"
    videos: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    quote: str | None = None
    category_separator: str | None = None
    feed: str | None = None
    format: str | None = None
    images: str | None = None
    whole: bool = False
