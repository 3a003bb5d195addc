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
from galleria.demo.clips import EVENTS, LONGEST, RATE, SHORTEST, SIDE, SMALLEST_SHARE, SPLITS, Clip, clips, write_clips
from galleria.families.video_event.data import SCHEMA
from galleria.learn.family import load_family
from galleria.media.videos import sample_frames
from galleria.pipelines.datasets import ProductDataset, Source

FEW = 3
"""Of every character and split: all of them take half a minute."""


def few() -> list[Clip]:
    return [clip for clip in clips() if clip.place < FEW]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "clips.parquet"
    assert write_clips(few(), path) == FEW * 10
    return path


@pytest.fixture(scope="module")
def rows(table: Path) -> list[dict[str, Any]]:
    return pq.read_table(table).to_pylist()


class TestPlan:
    def test_there_are_four_hundred_clips(self) -> None:
        found = list(clips())

        assert collections.Counter(clip.split for clip in found) == {"train": 256, "validation": 64, "test": 80}
        assert len({clip.id for clip in found}) == len(found)

    def test_test_characters_are_seen_nowhere_else(self) -> None:
        seen = {split: set(characters) for split, (characters, _) in SPLITS.items()}

        assert len(seen["train"]) == 4 and len(seen["test"]) == 2
        assert seen["validation"] == seen["train"]
        assert not seen["test"] & seen["train"]

    def test_no_photograph_is_in_two_splits(self) -> None:
        photographs = module._photographs()
        every = [file for files in photographs.values() for file in files]

        assert {split: len(files) for split, files in photographs.items()} == {"train": 27, "validation": 6, "test": 6}
        assert len(set(every)) == len(every) == 39

    def test_clips_have_one_or_two_different_events_that_do_not_overlap(self) -> None:
        for clip in clips():
            assert SHORTEST <= clip.seconds <= LONGEST
            assert 1 <= len(clip.spans) == len({span.event for span in clip.spans}) <= 2
            ends = [0.0, *(time for span in clip.spans for time in (span.begin, span.end)), clip.seconds]
            assert all(one <= other + 1e-9 for one, other in itertools.pairwise(ends))

    def test_events_take_from_a_twentieth_to_nearly_all_of_a_clip(self) -> None:
        shares = [(span.end - span.begin) / clip.seconds for clip in clips() for span in clip.spans]

        assert min(shares) >= SMALLEST_SHARE - 1e-9 and min(shares) < 0.055
        assert max(shares) > 0.95
        assert np.mean([share < 0.2 for share in shares]) > 0.3
        assert all(0.05 <= clip.share <= 1 for clip in clips())

    def test_events_and_their_number_are_balanced_in_every_split(self) -> None:
        for split in SPLITS:
            found = [clip for clip in clips() if clip.split == split]
            counts = collections.Counter(span.event for clip in found for span in clip.spans)
            assert counts.keys() == set(EVENTS)
            assert max(counts.values()) < 1.4 * min(counts.values())
            assert 0.4 < np.mean([len(clip.spans) == 2 for clip in found]) < 0.6


class TestFiles:
    def test_they_are_h264_of_the_planned_length(self, rows: list[dict[str, Any]]) -> None:
        for row, clip in zip(rows, few(), strict=True):
            with av.open(row["video"]) as file:
                stream = file.streams.video[0]
                assert (stream.codec_context.name, stream.width, stream.height) == ("h264", SIDE, SIDE)
                assert stream.average_rate == RATE
                assert stream.frames == round(clip.seconds * RATE)

    def test_rows_name_their_events_and_full_paths(self, rows: list[dict[str, Any]]) -> None:
        for row, clip in zip(rows, few(), strict=True):
            assert row["id"] == clip.id and row["split"] == clip.split
            assert row["events"] == sorted(span.event for span in clip.spans)
            assert Path(row["video"]).is_absolute() and Path(row["video"]).is_file()

    def test_the_table_passes_the_door_without_a_reject(self, table: Path) -> None:
        data = ProductDataset(Source(str(table)), load_family("video_event"))

        assert data.rejects == []
        assert pq.read_schema(table).names == [*SCHEMA.names, "split"]

    def test_a_clip_looks_otherwise_while_an_event_happens(self, rows: list[dict[str, Any]]) -> None:
        """Where the character is away but in its event, it stands out from the room by more than the camera moves."""
        clip = next(clip for clip in few() if clip.away and len(clip.spans) == 1 and clip.share < 0.6)
        span = clip.spans[0]
        [video] = [row["video"] for row in rows if row["id"] == clip.id]
        frames = sample_frames(video, 5, 200, 32)
        inside = (frames.seconds > span.begin + 0.2) & (frames.seconds < span.end - 0.2)
        outside = (frames.seconds < span.begin - 0.2) | (frames.seconds > span.end + 0.2)
        room = np.median(frames.pixels[outside], axis=0)

        change = np.abs(frames.pixels - room).mean((1, 2, 3))

        assert change[inside].min() > np.median(change[outside])

    def test_the_same_packages_give_the_same_bytes(self, rows: list[dict[str, Any]], tmp_path: Path) -> None:
        write_clips(few()[::7], tmp_path / "clips.parquet")

        for again in (tmp_path / "clips").iterdir():
            [first] = [Path(row["video"]) for row in rows if Path(row["video"]).name == again.name]
            assert again.read_bytes() == first.read_bytes()
