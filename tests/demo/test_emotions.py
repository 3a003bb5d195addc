"""The demo's emotions and technical quality: their counts, splits and determinism, and that spoiling does spoil."""

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.demo.emotions import CLEAN, EMOTIONS, GRADES, SPOILT, prepare_emotions, spoil
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


def done(row: dict[str, Any]) -> str:
    return row["id"].split(":")[2]


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"])), np.float64)


def test_every_emoji_is_there_once_from_each_house(rows):
    assert collections.Counter(row["source"] for row in rows) == {"noto": 571, "twemoji": 571, "openmoji": 571}
    assert len({row["id"] for row in rows}) == len(rows)


def test_emotions_are_what_most_annotators_found(rows):
    emotions = {emoji(row): row["emotion"] for row in rows}

    assert collections.Counter(emotions.values()) == {"positive": 347, "neutral": 162, "negative": 62}
    assert list(EMOTIONS) == sorted(EMOTIONS)


def test_known_feelings_have_the_emotion_that_the_tweets_had(rows):
    emotions = {emoji(row): row["emotion"] for row in rows}
    known = ("face-with-tears-of-joy", "sparkling-heart", "angry-face", "broken-heart", "thought-balloon")

    assert [emotions[name] for name in known] == ["positive", "positive", "negative", "negative", "neutral"]


def test_splits_are_disjoint_by_emoji_and_near_80_10_10(rows):
    splits = collections.defaultdict(set)
    for row in rows:
        splits[emoji(row)].add(row["split"])

    assert all(len(found) == 1 for found in splits.values())
    share = collections.Counter((row["emotion"], row["split"]) for row in rows if row["source"] == "noto")
    assert {split: [share[emotion, split] for emotion in EMOTIONS] for split in ("train", "validation", "test")} == {
        "train": [50, 130, 278],
        "validation": [6, 16, 34],
        "test": [6, 16, 35],
    }


def test_half_of_the_pictures_are_spoilt_in_every_way_and_labelled_so(rows):
    ways = collections.Counter(done(row) for row in rows)

    assert abs(ways["clean"] / len(rows) - 0.5) < 0.03
    assert ways.keys() == {"clean", *(f"{kind}-{grade}" for kind in GRADES for grade in (1, 2, 3))}
    assert all(row["aesthetics"] == (CLEAN if done(row) == "clean" else SPOILT) for row in rows)


def test_what_was_done_tells_nothing_of_house_or_emotion(rows):
    for column in ("source", "emotion"):
        for value in {row[column] for row in rows}:
            spoilt = [row["aesthetics"] == SPOILT for row in rows if row[column] == value]
            assert abs(np.mean(spoilt) - 0.5) < 0.08


def test_all_pictures_are_of_one_format_and_size(rows):
    found = {(image.format, image.mode, image.size) for image in (Image.open(io.BytesIO(row["image"])) for row in rows)}

    assert found == {("PNG", "RGB", (72, 72))}


@pytest.mark.parametrize("kind", GRADES)
def test_each_grade_is_further_from_the_picture_than_the_last(kind, rows):
    [clean] = [row for row in rows if row["split"] == "train" and done(row) == "clean"][:1]
    original = Image.open(io.BytesIO(clean["image"]))

    spoilt = [spoil(original, kind, amount, np.random.default_rng(0)) for amount in GRADES[kind]]

    distances = [np.abs(np.asarray(image, np.float64) - pixels(clean)).mean() for image in spoilt]
    assert {image.size for image in spoilt} == {original.size}
    assert 0.5 < distances[0] < distances[1] < distances[2]


def test_the_labels_say_technical_quality_and_never_aesthetics(rows):
    assert {row["aesthetics"] for row in rows} == {"technically clean", "technically spoilt"}


def test_the_same_packages_give_the_same_bytes(pictures, tmp_path):
    again = tmp_path / "again.parquet"
    prepare_emotions(again)

    assert again.read_bytes() == pictures.read_bytes()


def test_the_pictures_pass_the_door_without_a_reject(pictures, rows):
    family = load_family("aesthetic_emotion")
    data = ProductDataset(Source(str(pictures)), family)
    ready = context(demo("none").model, data.rows("train"))

    made = example(rows[0], ready, None)

    assert data.rejects == []
    assert data.ignored == []
    assert ready.labels["emotion"] == EMOTIONS
    assert EMOTIONS[made["emotion"]] == rows[0]["emotion"]
