"""Reads Shopify's export of products: a CSV with several lines a product, one for each variant and picture."""

from collections import Counter
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import groupby

import pyarrow as pa
import pyarrow.fs

from galleria.errors import SchemaError
from galleria.learn.task import Row
from galleria.pipelines.readers.delimited import open_delimited
from galleria.pipelines.readers.feeds import price_of
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.rejects import Reject

COLUMNS = {
    "handle": ("Handle", "URL handle"),
    "title": ("Title",),
    "body": ("Body (HTML)", "Description"),
    "vendor": ("Vendor",),
    "category": ("Product Category", "Product category"),
    "type": ("Type",),
    "picture": ("Image Src", "Product image URL"),
    "position": ("Image Position", "Image position"),
    "variant_picture": ("Variant Image", "Variant image URL"),
    "sku": ("Variant SKU", "SKU"),
    "price": ("Variant Price", "Price"),
}
"""Field → its columns in Shopify's older and newer exports."""

ATTRIBUTES = {"vendor": pa.string(), "sku": pa.string(), "price": pa.float64()}
"""Name → type of the attributes in an export's rows."""

Line = Mapping[str, str | None]


def read_shopify(files: pyarrow.fs.FileSystem, inside: str, options: ReadOptions, report: Report) -> Iterator[Row]:
    """Yield a row for each picture of each product, with ids `handle/1`, `handle/2` and so on.

    The title and the like are those of a product's first line that has them. A picture of a variant has its SKU and
    price, others those of the first variant.

    Raises:
        SchemaError: it has not Shopify's columns.
        DataError: it cannot be read.
    """
    numbers: Counter[str] = Counter()
    for handle, lines in groupby(_lines(files, inside, options, report), key=lambda line: line["handle"]):
        product = list(lines)
        if handle is None:
            report(Reject("", f"{len(product)} lines have no handle: fill it in"))
            continue
        pictures = list(_pictures(product))
        if not pictures and not numbers[handle]:
            report(Reject(handle, f"the product {handle!r} has no picture: add one, or leave it out"))
        for picture, variant in pictures:
            numbers[handle] += 1
            price, _ = price_of(variant["price"])
            yield {
                "id": f"{handle}/{numbers[handle]}",
                "image": picture,
                "product_id": handle,
                "title": _first(product, "title"),
                "text": plain_text(_first(product, "body") or "") or _first(product, "title"),
                "category": _category(product),
                "vendor": _first(product, "vendor"),
                "sku": variant["sku"],
                "price": price,
            }


def plain_text(html: str) -> str:
    """Return the text of HTML, its white space as single spaces."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.texts).split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in ("script", "style")
        self.texts.append("" if tag in ("b", "i", "em", "strong", "span", "a") else " ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        self.texts.append("" if tag in ("b", "i", "em", "strong", "span", "a") else " ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)


def _lines(files: pyarrow.fs.FileSystem, inside: str, options: ReadOptions, report: Report) -> Iterator[Line]:
    table = open_delimited(files, inside, ".csv", options, report)
    indices = {
        name: next((table.header.index(column) for column in columns if column in table.header), None)
        for name, columns in COLUMNS.items()
    }
    for name in ("handle", "picture"):
        if indices[name] is None:
            raise SchemaError(
                f"{inside} has no column {COLUMNS[name][0]!r}, as Shopify's exports of products have: leave --feed out "
                f"(its columns: {', '.join(table.header)})"
            )
    present = [index for index in indices.values() if index is not None]
    for part in table.read(present, ()):
        columns = {index: part.column(number).to_pylist() for number, index in enumerate(present)}
        for row in range(len(part)):
            yield {name: None if index is None else columns[index][row] for name, index in indices.items()}


def _pictures(product: list[Line]) -> Iterator[tuple[str, Line]]:
    """Yield each picture once, by its position, with the line of its variant."""
    variants = {line["variant_picture"]: line for line in product if line["variant_picture"]}
    main = [line for line in product if line["picture"]]
    main.sort(key=lambda line: int(line["position"] or 0) if (line["position"] or "0").isdecimal() else 0)
    for picture in dict.fromkeys([*(line["picture"] for line in main), *variants]):
        if picture is not None:
            yield picture, variants.get(picture, product[0])


def _first(product: list[Line], name: str) -> str | None:
    return next((line[name] for line in product if line[name]), None)


def _category(product: list[Line]) -> list[str] | None:
    text = _first(product, "category") or _first(product, "type")
    return [level.strip() for level in text.split(">") if level.strip()] or None if text else None
