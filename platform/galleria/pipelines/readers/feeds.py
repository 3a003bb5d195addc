"""Reads product feeds by the names of their specification: Google's and Meta's, as text tables or XML."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.fs

from galleria.errors import SchemaError
from galleria.learn.task import Row
from galleria.pipelines.readers.feed_xml import read_xml_items
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.readers.table import open_raw, table_suffix
from galleria.pipelines.rejects import Reject

Item = Mapping[str, Sequence[str]]
"""Name of a field in the specification → its values."""

TEXT_ATTRIBUTES = ("availability", "brand", "color", "condition", "gender", "gtin", "link", "material", "size")
ATTRIBUTES = dict.fromkeys((*TEXT_ATTRIBUTES, "currency"), pa.string()) | dict.fromkeys(
    ("price", "sale_price"), pa.float64()
)
"""Name → type of the attributes in a feed's rows."""
PRICE = re.compile(r"(?:([A-Z]{3})\s*)?(\d[\d.,' \u00a0]*)(?:\s*([A-Z]{3}))?")
META_PICTURE = re.compile(r"image\[\d+\]\.url")


def read_feed(files: pyarrow.fs.FileSystem, inside: str, options: ReadOptions, report: Report) -> Iterator[Row]:
    """Yield a row for each picture of each item of a feed.

    Fields are those of https://support.google.com/merchants/answer/7052112 and of Meta's catalogues. The pictures of an
    item are `image_link` and each `additional_image_link`; the items of one `item_group_id` are one product.

    Raises:
        SchemaError: the feed has no such fields.
        DataError: it cannot be read.
    """
    is_xml = table_suffix(inside) in (".xml", ".rss", ".atom")
    items = read_xml_items(files, inside) if is_xml else _table_items(files, inside, options, report)
    for number, item in enumerate(items, 1):
        yield from _rows(item, number, report)


def price_of(text: str | None) -> tuple[float | None, str | None]:
    """Return amount and currency (ISO 4217) of a price such as "12.00 EUR", or None for what is not there.

    The last of dot and comma separates decimals where at most two digits follow it.
    """
    match = PRICE.fullmatch(text.strip()) if text else None
    if match is None:
        return None, None
    digits = re.sub(r"[' \u00a0]", "", match[2]).rstrip(".,")
    whole, separator, decimals = digits.rpartition(max(".,", key=digits.rfind))
    if not separator or len(decimals) > 2:
        whole, decimals = digits, ""
    return float(re.sub(r"[.,]", "", whole) + "." + (decimals or "0")), match[1] or match[3]


def field_name(name: str) -> str:
    """Return the name of a field in the specification: in lower case, with `_` for spaces, without the prefix `g:`."""
    return re.sub(r"\s+", "_", name.strip().lower()).removeprefix("g:")


def _table_items(files: pyarrow.fs.FileSystem, inside: str, options: ReadOptions, report: Report) -> Iterator[Item]:
    table = open_raw(files, inside, options, report)
    names = [field_name(name) for name in table.header]
    if "id" not in names or not any(name == "image_link" or META_PICTURE.fullmatch(name) for name in names):
        raise SchemaError(
            f"{inside} has no columns 'id' and 'image_link', as Google's and Meta's feeds have: leave --feed out, and "
            f"name columns with --column (its columns: {', '.join(table.header)})"
        )
    for part in table.read(range(len(names)), ()):
        for cells in zip(*(column.to_pylist() for column in part.columns), strict=True):
            item: dict[str, list[str]] = {}
            for name, cell in zip(names, cells, strict=True):
                if cell is not None and str(cell).strip():
                    item.setdefault(name, []).append(str(cell).strip())
            yield item


def _rows(item: Item, number: int, report: Report) -> Iterator[Row]:
    identifier = _first(item, "id")
    pictures = list(_pictures(item))
    if identifier is None or not pictures:
        missing = "id" if identifier is None else "image_link"
        report(Reject(identifier or "", f"item {number} of the feed has no {missing}: fill it in", number - 1))
        return
    price, currency = price_of(_first(item, "price"))
    if "price" in item and price is None:
        reason = f"the price {_first(item, 'price')!r} is not an amount and a currency: write 12.00 EUR"
        report(Reject(identifier, reason, number - 1, kept=True))
    sale_price, _ = price_of(_first(item, "sale_price"))
    title = _first(item, "title")
    row = {
        "product_id": _first(item, "item_group_id") or identifier,
        "title": title,
        "text": _first(item, "description") or title,
        "category": _category(item),
        **{name: _first(item, name) for name in TEXT_ATTRIBUTES},
        "price": price,
        "sale_price": sale_price,
        "currency": currency,
    }
    for index, picture in enumerate(pictures, 1):
        yield {"id": identifier if index == 1 else f"{identifier}/{index}", "image": picture, **row}


def _first(item: Item, name: str) -> str | None:
    return item[name][0] if item.get(name) else None


def _pictures(item: Item) -> Iterable[str]:
    """Return the addresses of an item's pictures, each once."""
    main = item.get("image_link", ())
    numbered = [address for name in sorted(item) if META_PICTURE.fullmatch(name) for address in item[name]]
    more = [address for value in item.get("additional_image_link", ()) for address in split_addresses(value)]
    return dict.fromkeys([*main, *numbered, *more])


def split_addresses(text: str) -> list[str]:
    """Return addresses that are separated by commas; one with a scheme may hold commas itself."""
    separator = r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)" if "://" in text else ","
    return [address.strip() for address in re.split(separator, text) if address.strip(" ,")]


def _category(item: Item) -> list[str] | None:
    """Return the shop's own path, or else that of Google's or Meta's taxonomy, unless it is a number."""
    for name in ("product_type", "google_product_category", "fb_product_category"):
        text = _first(item, name)
        if text and not text.isdecimal():
            return [level.strip() for level in text.split(">") if level.strip()] or None
    return None
