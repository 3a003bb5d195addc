"""Reads the items of an RSS 2.0 or Atom product feed, one at a time and without what makes XML dangerous."""

from collections.abc import Iterator
from xml.parsers import expat

import pyarrow.fs

from galleria.errors import DataError

ITEMS = ("item", "entry")
CHUNK_BYTES = 1 << 20
MAX_DEPTH = 64


def read_xml_items(files: pyarrow.fs.FileSystem, inside: str) -> Iterator[dict[str, list[str]]]:
    """Yield the fields of each `<item>` or `<entry>`: name without its namespace → values. Empty fields are left out.

    Document types are not accepted, so that no entity is declared, none expanded, and nothing else is opened.

    Raises:
        DataError: it is not well-formed XML, has a document type, or holds no item.
    """
    parser = _Parser(inside)
    count = 0
    with files.open_input_stream(inside) as stream:
        while True:
            chunk = bytes(stream.read(CHUNK_BYTES))
            for item in parser.feed(chunk, not chunk):
                count += 1
                yield item
            if not chunk:
                break
    if not count:
        raise DataError(f"{inside} holds no <item> or <entry>: name an RSS 2.0 or Atom product feed")


class _Parser:
    """Collects the texts of the elements of items."""

    def __init__(self, inside: str) -> None:
        self._inside = inside
        self._path: list[str] = []
        self._item: dict[str, list[str]] | None = None
        self._item_depth = 0
        self._text: list[str] = []
        self._items: list[dict[str, list[str]]] = []
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._text.append
        self._expat.StartDoctypeDeclHandler = self._doctype

    def feed(self, chunk: bytes, is_last: bool) -> list[dict[str, list[str]]]:
        """Return the items that end in a chunk."""
        try:
            self._expat.Parse(chunk, is_last)
        except expat.ExpatError as error:
            raise DataError(f"{self._inside} is not well-formed XML ({error}): export the feed again") from error
        items, self._items[:] = list(self._items), []
        return items

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].lower()
        self._path.append(name)
        if len(self._path) > MAX_DEPTH:
            raise DataError(f"{self._inside} nests elements over {MAX_DEPTH} deep: name a product feed")
        self._text.clear()
        if name in ITEMS and self._item is None:
            self._item, self._item_depth = {}, len(self._path)
        elif self._item is not None and name == "link" and "href" in attributes:  # Atom's
            self._item.setdefault("link", []).append(attributes["href"])

    def _end(self, _: str) -> None:
        name = self._path.pop()
        depth = len(self._path) + 1
        text = "".join(self._text).strip()
        self._text.clear()
        if self._item is None:
            return
        if depth == self._item_depth:
            self._items.append(self._item)
            self._item = None
        elif depth == self._item_depth + 1 and text:  # deeper ones, such as shipping's price, are of another thing
            self._item.setdefault(name, []).append(text)

    def _doctype(self, *_: object) -> None:
        raise DataError(f"{self._inside} has a document type (<!DOCTYPE …>), which is not read: remove it")
