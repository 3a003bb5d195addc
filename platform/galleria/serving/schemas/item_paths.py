"""Items' ids as one segment of a URL's path."""

from urllib.parse import quote, unquote

DOTS = (".", "..")
"""Ids that URLs take for folders, percent-encoded too: an empty parameter (RFC 3986, section 3.3) makes them a name."""


def item_path(item_id: str) -> str:
    """Return the path of an item, with its id percent-encoded."""
    return f"/v1/items/{quote(item_id, safe='')}{';' if item_id in DOTS else ''}"


def item_id_of(segment: str) -> str:
    """Return the id in the segment of a path as it was sent."""
    return segment[:-1] if segment in (f"{dots};" for dots in DOTS) else unquote(segment)
