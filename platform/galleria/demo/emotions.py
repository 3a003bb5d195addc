"""Demo pictures with an emotion and a technical quality: emoji as people felt them in tweets, some of them spoilt.

The emotion is what people who read tweets with the emoji found them to be: the counts of Kralj Novak, Smailović,
Sluban & Mozetič, "Sentiment of Emojis" (2015), CC BY-SA. The technical quality is known, because the preparer itself
spoils half of the pictures. It says nothing of beauty: it stands in the column `aesthetics` because the demo has no
such labels, and its classes say what it is. The pictures are the renderings of `galleria.demo.products`, of the same
licences. The same packages give the same bytes on every run.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
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
"""Of every picture, in pixels: the smallest that any house has, so that sharpness does not tell the houses apart."""

FEWEST_TWEETS = 5
EMOTIONS = ("negative", "neutral", "positive")
CLEAN, SPOILT = "technically clean", "technically spoilt"

GRADES: dict[str, tuple[float, float, float]] = {
    "jpeg": (25, 12, 5),
    "blur": (0.8, 1.4, 2.2),
    "noise": (12, 25, 45),
    "crop": (0.85, 0.7, 0.55),
    "cast": (0.15, 0.3, 0.45),
}
"""Kind of damage → its amount in three grades: JPEG quality, radius and deviation in pixels and grey levels, share
of the side that is left, largest change of a colour's brightness."""

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
    """Write the pictures as parquet, three rows an emoji; returns the number of emoji.

    Emoji with fewer than five annotated tweets are left out; where two emotions were found as often, the less
    positive one is the label. An emoji is train, validation or test (80/10/10 of each emotion) by a hash of its
    name, with all of its pictures. Which of them are spoilt, and how, is drawn from a hash of house and emoji;
    an id ends in it.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    votes = _votes()
    felt = {}
    for product in drawn_products():
        counts = votes.get(_plain(product["character"]), [0])
        if sum(counts) >= FEWEST_TWEETS:
            felt[product["cldr_name"]] = (product, EMOTIONS[int(np.argmax(counts))])
    splits = _splits({name: emotion for name, (_, emotion) in felt.items()})
    rows = [row for name, (product, emotion) in felt.items() for row in _rows(product, emotion, splits[name])]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, PICTURES), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(felt)


def spoil(image: Image.Image, kind: str, amount: float, generator: np.random.Generator) -> Image.Image:
    """An RGB picture with one kind of damage of `GRADES`, of the same size."""
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
        pixels = pixels * (1 + amount * generator.permutation([1.0, 0.0, -1.0]))  # one colour up, another down
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _votes() -> dict[str, list[float]]:
    """Character → how many annotators found its tweets negative, neutral and positive."""
    file = package_folder("emosent") / "data" / "Emoji_Sentiment_Data_v1.0.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            _plain(line["Emoji"]): [float(line[emotion.capitalize()]) for emotion in EMOTIONS]
            for line in csv.DictReader(lines)
        }


def _plain(character: str) -> str:
    """Without the selector that asks for colours: the tweets were counted without it."""
    return character.replace("\ufe0f", "")


def _splits(emotions: Mapping[str, str]) -> dict[str, str]:
    """Name → split, 80/10/10 of every emotion in the order of a hash: the rarest would else be missing somewhere."""
    splits = {}
    for emotion in EMOTIONS:
        names = [name for name, found in emotions.items() if found == emotion]
        for place, name in enumerate(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())):
            share = (place + 0.5) / len(names)
            splits[name] = "train" if share < 0.8 else "validation" if share < 0.9 else "test"
    return splits


def _rows(product: dict[str, Any], emotion: str, split: str) -> Iterator[dict[str, Any]]:
    for source, file in product["files"].items():
        name = f"{source}:{product['slug']}"
        generator = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        image = fit_square(decode_image(picture(file, SIDE)), SIDE)
        done = "clean"
        if generator.random() < 0.5:
            kind, grade = generator.choice(list(GRADES)), int(generator.integers(0, 3))
            image, done = spoil(image, kind, GRADES[kind][grade], generator), f"{kind}-{grade + 1}"
        yield {
            "id": f"{name}:{done}",
            "image": _encoded(image, "PNG"),
            "aesthetics": CLEAN if done == "clean" else SPOILT,
            "emotion": emotion,
            "source": source,
            "split": split,
        }


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()
