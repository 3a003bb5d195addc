"""Demo pictures with an emotion and a technical quality: emoji with the sentiment of tweets, some of them degraded.

The emotion is how annotators labelled tweets with the emoji: the counts of Kralj Novak, Smailović,
Sluban & Mozetič, "Sentiment of Emojis" (2015), CC BY-SA. The technical quality is known, because half of
the pictures are degraded here. It says nothing of beauty: it is in the column `aesthetics` because the demo has no
such labels, and its classes say what it is. The pictures are the renderings of `galleria.demo.products`, of the same
licences. The same packages give the same bytes on every run.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from galleria.demo.packages import package_folder
from galleria.demo.products import drawn_products, picture
from galleria.media.images import decode_image, fit_square

SIDE = 72
"""Of every picture, in pixels: the smallest of all vendors, so that sharpness does not identify the vendor."""

MIN_TWEETS = 5
"""Annotated tweets that an emoji needs."""
EMOTIONS = ("negative", "neutral", "positive")
CLEAN, DEGRADED = "technically clean", "technically spoilt"

GRADES: dict[str, tuple[float, float, float]] = {
    "jpeg": (25, 12, 5),
    "blur": (0.8, 1.4, 2.2),
    "noise": (12, 25, 45),
    "crop": (0.85, 0.7, 0.55),
    "cast": (0.15, 0.3, 0.45),
}
"""Kind of degradation → its amount in three grades: JPEG quality, radius in pixels, deviation in grey levels,
fraction of the side that remains, largest change of a channel's brightness."""

PICTURES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("aesthetics", pa.string()),
        pa.field("emotion", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
    ]
)


def prepare_emotions(path: Path) -> int:
    """Write the pictures as parquet, three rows per emoji; return the number of emoji.

    Emoji with fewer than five annotated tweets are left out; where two emotions are equally frequent, the less
    positive one is the label. An emoji is train, validation or test (80/10/10 of each emotion) by a hash of its
    name, with all of its pictures. Which of them are degraded, and how, is drawn from a hash of vendor and emoji;
    an id ends in it.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    return write_emotions(drawn_products(), path)


def write_emotions(drawn: Iterable[dict[str, Any]], path: Path) -> int:
    """Write some of `drawn_products()`, as `prepare_emotions` does all."""
    votes = _votes()
    labelled = {}
    for product in drawn:
        counts = votes.get(_without_selector(product["character"]), [0])
        if sum(counts) >= MIN_TWEETS:
            labelled[product["cldr_name"]] = (product, EMOTIONS[int(np.argmax(counts))])
    splits = _splits({name: emotion for name, (_, emotion) in labelled.items()})
    rows = [row for name, (product, emotion) in labelled.items() for row in _rows(product, emotion, splits[name])]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PICTURES), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(labelled)


def degrade(image: Image.Image, kind: str, amount: float, generator: np.random.Generator) -> Image.Image:
    """Return an RGB picture with one kind of degradation of `GRADES`, of the same size."""
    if kind == "jpeg":
        return Image.open(io.BytesIO(_encoded(image, "JPEG", quality=int(amount)))).convert("RGB")
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount))
    if kind == "crop":
        width, height = (round(side * amount) for side in image.size)
        left = int(generator.integers(0, image.width - width + 1))
        top = int(generator.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float64)
    if kind == "noise":
        pixels = pixels + generator.normal(0, amount, pixels.shape)
    else:
        pixels = pixels * (1 + amount * generator.permutation([1.0, 0.0, -1.0]))  # one channel up, another down
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _votes() -> dict[str, list[float]]:
    """Return, by character, how many annotators labelled its tweets negative, neutral and positive."""
    file = package_folder("emosent") / "data" / "Emoji_Sentiment_Data_v1.0.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            _without_selector(line["Emoji"]): [float(line[emotion.capitalize()]) for emotion in EMOTIONS]
            for line in csv.DictReader(lines)
        }


def _without_selector(character: str) -> str:
    """Drop the variation selector (FE0F): the tweets were counted without it."""
    return character.replace("\ufe0f", "")


def _splits(emotions: Mapping[str, str]) -> dict[str, str]:
    """Return name → split, 80/10/10 of every emotion in hash order: else a split could lack the rarest emotion."""
    splits = {}
    for emotion in EMOTIONS:
        names = [name for name, label in emotions.items() if label == emotion]
        for position, name in enumerate(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())):
            quantile = (position + 0.5) / len(names)
            splits[name] = "train" if quantile < 0.8 else "validation" if quantile < 0.9 else "test"
    return splits


def _rows(product: dict[str, Any], emotion: str, split: str) -> Iterator[dict[str, Any]]:
    for source, file in product["files"].items():
        name = f"{source}:{product['slug']}"
        generator = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        image = fit_square(decode_image(picture(file, SIDE)), SIDE)
        degradation = "clean"
        if generator.random() < 0.5:
            kind, grade = generator.choice(list(GRADES)), int(generator.integers(0, 3))
            image, degradation = degrade(image, kind, GRADES[kind][grade], generator), f"{kind}-{grade + 1}"
        yield {
            "id": f"{name}:{degradation}",
            "image": _encoded(image, "PNG"),
            "aesthetics": CLEAN if degradation == "clean" else DEGRADED,
            "emotion": emotion,
            "source": source,
            "split": split,
        }


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()
