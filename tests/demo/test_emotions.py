"""The demo's emotions and technical quality: their counts, splits and determinism, and what each degradation does."""

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.demo.emotions import CLEAN, DEGRADED, EMOTIONS, GRADES, degrade, prepare_emotions
from galleria.families.aesthetic_emotion.data import context, example
from galleria.families.aesthetic_emotion.recipes import demo
from galleria.learn.family import load_family
from galleria.pipelines.datasets import ProductDataset, Source


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "emotions.parquet"
    assert prepare_emotions(path) == 571
    return path


@pytest.fixture(scope="module")
def rows(pictures: Path) -> list[dict[str, Any]]:
    return pq.read_table(pictures).to_pylist()


def emoji(row: dict[str, Any]) -> str:
    return row["id"].split(":")[1]


def degradation(row: dict[str, Any]) -> str:
    return row["id"].split(":")[2]


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"])), np.float64)


def test_every_vendor_draws_each_emoji_once(rows):
    assert collections.Counter(row["source"] for row in rows) == {"noto": 571, "twemoji": 571, "openmoji": 571}
    assert len({row["id"] for row in rows}) == len(rows)


def test_emotion_is_the_most_frequent_label(rows):
    emotions = {emoji(row): row["emotion"] for row in rows}

    assert collections.Counter(emotions.values()) == {"positive": 347, "neutral": 162, "negative": 62}
    assert list(EMOTIONS) == sorted(EMOTIONS)


def test_emotions_of_known_emoji(rows):
    emotions = {emoji(row): row["emotion"] for row in rows}
    known = ("face-with-tears-of-joy", "sparkling-heart", "angry-face", "broken-heart", "thought-balloon")

    assert [emotions[name] for name in known] == ["positive", "positive", "negative", "negative", "neutral"]


def test_splits_are_disjoint_and_near_80_10_10(rows):
    splits = collections.defaultdict(set)
    for row in rows:
        splits[emoji(row)].add(row["split"])

    assert all(len(names) == 1 for names in splits.values())
    counts = collections.Counter((row["emotion"], row["split"]) for row in rows if row["source"] == "noto")
    assert {split: [counts[emotion, split] for emotion in EMOTIONS] for split in ("train", "validation", "test")} == {
        "train": [50, 130, 278],
        "validation": [6, 16, 34],
        "test": [6, 16, 35],
    }


def test_half_of_pictures_are_degraded(rows):
    degradations = collections.Counter(degradation(row) for row in rows)

    assert abs(degradations["clean"] / len(rows) - 0.5) < 0.03
    assert degradations.keys() == {"clean", *(f"{kind}-{grade}" for kind in GRADES for grade in (1, 2, 3))}
    assert all(row["aesthetics"] == (CLEAN if degradation(row) == "clean" else DEGRADED) for row in rows)


def test_degradation_is_independent_of_label(rows):
    for column in ("source", "emotion"):
        for value in {row[column] for row in rows}:
            degraded = [row["aesthetics"] == DEGRADED for row in rows if row[column] == value]
            assert abs(np.mean(degraded) - 0.5) < 0.08


def test_pictures_have_one_format_and_size(rows):
    formats = {
        (image.format, image.mode, image.size) for image in (Image.open(io.BytesIO(row["image"])) for row in rows)
    }

    assert formats == {("PNG", "RGB", (72, 72))}


@pytest.mark.parametrize("kind", GRADES)
def test_higher_grades_degrade_more(kind, rows):
    [clean] = [row for row in rows if row["split"] == "train" and degradation(row) == "clean"][:1]
    original = Image.open(io.BytesIO(clean["image"]))

    degraded = [degrade(original, kind, amount, np.random.default_rng(0)) for amount in GRADES[kind]]

    distances = [np.abs(np.asarray(image, np.float64) - pixels(clean)).mean() for image in degraded]
    assert {image.size for image in degraded} == {original.size}
    assert 0.5 < distances[0] < distances[1] < distances[2]


def test_labels_name_technical_quality(rows):
    assert {row["aesthetics"] for row in rows} == {"technically clean", "technically spoilt"}


def test_file_is_reproducible(pictures, tmp_path):
    again = tmp_path / "again.parquet"
    prepare_emotions(again)

    assert again.read_bytes() == pictures.read_bytes()


def test_rows_are_valid_input_and_examples(pictures, rows):
    family = load_family("aesthetic_emotion")
    data = ProductDataset(Source(str(pictures)), family)
    ready = context(demo("none").model, data.rows("train"))

    sample = example(rows[0], ready, None)

    assert data.rejects == []
    assert data.ignored == []
    assert ready.labels["emotion"] == EMOTIONS
    assert EMOTIONS[sample["emotion"]] == rows[0]["emotion"]
