"""The rows of `video_event`: a file, and the names of the events that it shows."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from galleria.errors import DataError
from galleria.families.video_event.config import VideoEventConfig
from galleria.learn.family import Context, Labels, index_by_name
from galleria.learn.training.augmentation import Augmentation, augment
from galleria.learn.types import Row
from galleria.media.videos import sample_frames

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"about": "unique name of the video"}),
        pa.field("video", pa.string(), nullable=False, metadata={"about": "full path or URI of the video file"}),
        pa.field("events", pa.list_(pa.string()), metadata={"about": "names of its events; empty for none"}),
    ]
)
KEY_FRAMES = 3
"""Number of frames of highest attention in a response."""


def context(config: VideoEventConfig, rows: Iterable[Row]) -> Context[VideoEventConfig]:
    """Take labels from the events of the training videos.

    Raises:
        DataError: no video has an event.
    """
    names = sorted({name for row in rows for name in row.get("events") or ()})
    if not names:
        raise DataError("no training video has an event: fill the column 'events' with names")
    return Context(config.model_copy(update={"classes": len(names)}), {"event": tuple(names)})


def example(row: Row, context: Context[VideoEventConfig], generator: np.random.Generator | None) -> Row:
    """Make arrays of the columns that the row has. A video is a path or URI, or its bytes.

    `frames` uint8 `[T, 3, S, S]`, padded with zeros; `frame_mask` bool `[T]`, true for frames; `seconds` float32
    `[T]`, their times; and where there are labels `events` float32 `[K]` of 0 and 1, or -1 for an unlabelled
    video, or with `labels="single"` instead `label`, an index or -1. A generator takes a random part of the
    video and changes all its frames alike.

    Raises:
        DataError: the video cannot be read, or its events do not fit the labels.
    """
    arrays: dict[str, Any] = {}
    if "video" in row:
        arrays |= _clip(row["video"] or b"", context.config, generator)
    if "events" in row:
        arrays |= _labels(row["events"], context)
    return arrays


def present(outputs: Mapping[str, Any], labels: Labels) -> Mapping[str, Any]:
    """Return `events`, most probable first; `timeline`, the attention of every frame; `key_frames`, its peaks.

    A frame's attention is its mean share in the rows of the explanation: all frames together have 1.
    """
    threshold = float(outputs["threshold"])
    probabilities = [float(value) for value in outputs["probabilities"]]
    events = [
        {"name": name, "probability": probability, "over_threshold": probability >= threshold}
        for name, probability in sorted(zip(labels["event"], probabilities, strict=True), key=lambda pair: -pair[1])
    ]
    mask = np.asarray(outputs["frame_mask"]).astype(bool)
    times, attention = np.asarray(outputs["seconds"])[mask], np.asarray(outputs["explanation"]).mean(0)[mask]
    timeline = [
        {"seconds": round(float(time), 3), "attention": float(share)}
        for time, share in zip(times, attention, strict=True)
    ]
    peaks = sorted(timeline, key=lambda frame: -frame["attention"])[:KEY_FRAMES]
    return {"events": events, "key_frames": peaks, "timeline": timeline}


def _clip(video: str | bytes, config: VideoEventConfig, generator: np.random.Generator | None) -> dict[str, Any]:
    part = (0.0, 1.0)
    if generator is not None:
        length = generator.uniform(config.smallest_part, 1)
        begin = generator.uniform(0, 1 - length)
        part = (begin, begin + length)
    sampled = sample_frames(video, config.rate, config.frames, config.size, part=part)
    pixels = sampled.pixels
    if generator is not None and config.augmentation != Augmentation():
        pixels = _augment_alike(pixels, config.augmentation, generator)
    count = len(pixels)
    frames = np.zeros((config.frames, *pixels.shape[1:]), np.uint8)
    seconds = np.zeros(config.frames, np.float32)
    frames[:count], seconds[:count] = pixels, sampled.seconds
    return {"frames": frames, "frame_mask": np.arange(config.frames) < count, "seconds": seconds}


def _augment_alike(
    pixels: NDArray[np.uint8], limits: Augmentation, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Augment every frame by the same draws: a clip has one camera and one light."""
    seed = int(generator.integers(1 << 62))
    pictures = (Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))) for frame in pixels)
    changed = [np.asarray(augment(picture, limits, np.random.default_rng(seed))) for picture in pictures]
    return np.stack(changed).transpose(0, 3, 1, 2)


def _labels(events: list[str] | None, context: Context[VideoEventConfig]) -> dict[str, Any]:
    names = context.labels["event"]
    known = index_by_name(names)
    for name in events or ():
        if name not in known:
            raise DataError(f"the event {name!r} is not one of the training videos: use one of {', '.join(names)}")
    if context.config.labels == "single":
        if events is not None and len(set(events)) != 1:
            raise DataError(
                f"a single-label video has exactly one event, not {len(set(events))}: name one, or set labels='multi'"
            )
        return {"label": np.int64(known[events[0]] if events else -1)}
    truth = np.full(len(names), -1 if events is None else 0, np.float32)
    truth[[known[name] for name in events or ()]] = 1
    return {"events": truth}
