"""The demo clips: real H.264 files, their splits, their events, and that they come out the same."""

import collections
import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from galleria.demo import clips as module
from galleria.demo.clips import (
    EVENTS,
    MAX_SECONDS,
    MIN_EVENT_FRACTION,
    MIN_SECONDS,
    RATE,
    SIDE,
    SPLITS,
    Clip,
    clips,
    write_clips,
)
from galleria.families.video_event.data import SCHEMA
from galleria.learn.family import load_family
from galleria.media.videos import sample_frames
from galleria.pipelines.datasets import ProductDataset, Source

CLIPS_PER_CHARACTER = 3
"""In every split: all of them take half a minute."""


def first_clips() -> list[Clip]:
    return [clip for clip in clips() if clip.number < CLIPS_PER_CHARACTER]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "clips.parquet"
    assert write_clips(first_clips(), path) == CLIPS_PER_CHARACTER * 10
    return path


@pytest.fixture(scope="module")
def rows(table: Path) -> list[dict[str, Any]]:
    return pq.read_table(table).to_pylist()


class TestPlan:
    def test_clip_counts_per_split(self) -> None:
        planned = list(clips())

        assert collections.Counter(clip.split for clip in planned) == {"train": 256, "validation": 64, "test": 80}
        assert len({clip.id for clip in planned}) == len(planned)

    def test_test_characters_are_held_out(self) -> None:
        seen = {split: set(characters) for split, (characters, _) in SPLITS.items()}

        assert len(seen["train"]) == 4 and len(seen["test"]) == 2
        assert seen["validation"] == seen["train"]
        assert not seen["test"] & seen["train"]

    def test_photographs_are_in_one_split(self) -> None:
        photographs = module._photographs()
        every = [file for files in photographs.values() for file in files]

        assert {split: len(files) for split, files in photographs.items()} == {"train": 27, "validation": 6, "test": 6}
        assert len(set(every)) == len(every) == 39

    def test_spans_differ_and_do_not_overlap(self) -> None:
        for clip in clips():
            assert MIN_SECONDS <= clip.seconds <= MAX_SECONDS
            assert 1 <= len(clip.spans) == len({span.event for span in clip.spans}) <= 2
            ends = [0.0, *(time for span in clip.spans for time in (span.begin, span.end)), clip.seconds]
            assert all(one <= other + 1e-9 for one, other in itertools.pairwise(ends))

    def test_event_fractions_vary(self) -> None:
        fractions = [(span.end - span.begin) / clip.seconds for clip in clips() for span in clip.spans]

        assert min(fractions) >= MIN_EVENT_FRACTION - 1e-9 and min(fractions) < 0.055
        assert max(fractions) > 0.95
        assert np.mean([fraction < 0.2 for fraction in fractions]) > 0.3
        assert all(0.05 <= clip.event_fraction <= 1 for clip in clips())

    def test_events_are_balanced_in_every_split(self) -> None:
        for split in SPLITS:
            planned = [clip for clip in clips() if clip.split == split]
            counts = collections.Counter(span.event for clip in planned for span in clip.spans)
            assert counts.keys() == set(EVENTS)
            assert max(counts.values()) < 1.4 * min(counts.values())
            assert 0.4 < np.mean([len(clip.spans) == 2 for clip in planned]) < 0.6


class TestFiles:
    def test_files_are_h264_of_planned_length(self, rows: list[dict[str, Any]]) -> None:
        for row, clip in zip(rows, first_clips(), strict=True):
            with av.open(row["video"]) as file:
                stream = file.streams.video[0]
                assert (stream.codec_context.name, stream.width, stream.height) == ("h264", SIDE, SIDE)
                assert stream.average_rate == RATE
                assert stream.frames == round(clip.seconds * RATE)

    def test_rows_have_events_and_absolute_paths(self, rows: list[dict[str, Any]]) -> None:
        for row, clip in zip(rows, first_clips(), strict=True):
            assert row["id"] == clip.id and row["split"] == clip.split
            assert row["events"] == sorted(span.event for span in clip.spans)
            assert Path(row["video"]).is_absolute() and Path(row["video"]).is_file()

    def test_table_is_valid_input(self, table: Path) -> None:
        data = ProductDataset(Source(str(table)), load_family("video_event"))

        assert data.rejects == []
        assert pq.read_schema(table).names == [*SCHEMA.names, "split"]

    def test_picture_changes_during_events(self, rows: list[dict[str, Any]]) -> None:
        """A character that is present in its event only changes the picture more than the camera's motion does."""
        clip = next(clip for clip in first_clips() if clip.away and len(clip.spans) == 1 and clip.event_fraction < 0.6)
        span = clip.spans[0]
        [video] = [row["video"] for row in rows if row["id"] == clip.id]
        frames = sample_frames(video, 5, 200, 32)
        inside = (frames.seconds > span.begin + 0.2) & (frames.seconds < span.end - 0.2)
        outside = (frames.seconds < span.begin - 0.2) | (frames.seconds > span.end + 0.2)
        background = np.median(frames.pixels[outside], axis=0)

        change = np.abs(frames.pixels - background).mean((1, 2, 3))

        assert change[inside].min() > np.median(change[outside])

    def test_files_are_reproducible(self, rows: list[dict[str, Any]], tmp_path: Path) -> None:
        write_clips(first_clips()[::7], tmp_path / "clips.parquet")

        for again in (tmp_path / "clips").iterdir():
            [first] = [Path(row["video"]) for row in rows if Path(row["video"]).name == again.name]
            assert again.read_bytes() == first.read_bytes()
