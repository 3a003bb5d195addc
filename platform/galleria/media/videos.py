"""Encoded videos to sampled frames: the only place that decodes videos.

A file is opened by its first bytes as one of four containers, never by probing all formats of FFmpeg: playlists and
other formats that make it open further files or addresses are not read at all.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.boxes import claimed_samples
from galleria.media.decoder import current_decoder
from galleria.media.limits import LIMITS, Limits
from galleria.media.video_reader import TIME_TOLERANCE_S, VideoReader, broken

CONTAINERS = "MP4, QuickTime, Matroska, WebM, AVI or MPEG-TS"
CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "prores", "theora"}
)
"""Decoders in common use. FFmpeg has hundreds more, and the file decides which one runs."""

OPEN_OPTIONS = {"codec_whitelist": "none", "protocol_whitelist": "none"}
"""While the container is opened nothing is decoded (the header's frame size is checked first) or fetched."""

HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
"""Transfer functions of HDR video, PQ and HLG (ITU-R BT.2100): phones record them."""

SRGB = {
    "dst_colorspace": Colorspace.ITU709,
    "dst_color_trc": ColorTrc.IEC61966_2_1,
    "dst_color_primaries": ColorPrimaries.BT709,
}

HEADER_BYTES = 400
BUFFER_BYTES = 1 << 17
MIN_DECODED_FRACTION = 0.5
"""Fraction of the sampled frames that must be decoded from a damaged file."""


@dataclass(frozen=True)
class Frames:
    """Frames of a video in the order of their times.

    Attributes:
        pixels: uint8 RGB `[T, 3, S, S]`, upright, fitted into a square on white.
        seconds: float64 `[T]`, when each is presented, from the first frame of the video on.
    """

    pixels: NDArray[np.uint8]
    seconds: NDArray[np.float64]


def sample_frames(
    source: bytes | str | BinaryIO,
    rate: float,
    max_frames: int,
    size: int,
    limits: Limits = LIMITS,
    part: tuple[float, float] = (0.0, 1.0),
) -> Frames:
    """Decode the frames that are on display at `sampling_times`, with the times at which they appeared.

    No others are kept in memory, and frames between them are skipped where the file has an index: memory does not
    grow with the length of a video. Where packets are damaged or the end is missing, at least `MIN_DECODED_FRACTION` of
    the sampling times must have a frame of their own; the others are left out.

    Args:
        source: the bytes of a file, a path, a URI of an object store ("s3://…"), or an open file that can seek.
        rate: frames taken from one second.
        max_frames: longer videos are thinned evenly to this number.
        size: S, side of a frame in pixels.
        limits: larger videos are rejected; `video_bytes` applies to bytes only.
        part: start and end of the part to sample, as shares of the duration.

    Raises:
        UnsupportedMediaError: not a video, without pictures, or with a codec that is not supported.
        MediaTooLargeError: over `limits`; the size of a frame is checked before decoding.
        BrokenMediaError: empty, truncated or damaged, or its times are undefined.
        DataError: the file cannot be opened, or is shorter than one sampling step.
    """
    decoder = current_decoder.get()
    if decoder is not None and isinstance(source, bytes):
        _check_bytes(source, limits)
        return Frames(*decoder.frames(source, rate, max_frames, size, limits, part))
    with _opened(source, limits) as file:
        try:
            with _container(file, limits, isinstance(source, bytes)) as container:
                return _sample(container, rate, max_frames, size, limits, part)
        except DataError:
            raise
        except Exception as error:  # FFmpeg's readers fail in many ways on damaged files
            raise broken(str(error)) from error


def sampling_times(
    duration: float, rate: float, max_frames: int, part: tuple[float, float] = (0.0, 1.0)
) -> list[float]:
    """Return the start of every full step of `1 / rate` seconds; of more than `max_frames`, the middle of even runs.

    Raises:
        DataError: the duration is shorter than one step.
    """
    if math.floor(duration * rate + TIME_TOLERANCE_S) < 1:
        raise DataError(
            f"the video lasts {duration:.3g} s, less than one sampling step of {1 / rate:.3g} s: "
            "use a longer video, or a model of a higher rate"
        )
    low, high = part
    steps = max(1, math.floor((high - low) * duration * rate + TIME_TOLERANCE_S))
    count = min(steps, max_frames)
    return [low * duration + math.floor((index + 0.5) * steps / count) / rate for index in range(count)]


def _check_bytes(data: bytes, limits: Limits) -> None:
    if len(data) > limits.video_bytes:
        raise MediaTooLargeError(
            f"the video has {len(data):,} bytes, over the limit of {limits.video_bytes:,}: shorten or shrink it"
        )


@contextlib.contextmanager
def _opened(source: bytes | str | BinaryIO, limits: Limits) -> Iterator[Any]:
    """Open a file that can seek. A string never reaches FFmpeg, which would try all of its protocols."""
    if isinstance(source, bytes):
        _check_bytes(source, limits)
        yield io.BytesIO(source)
    elif isinstance(source, str):
        import pyarrow as pa  # here: the process that decodes uploads does not need it
        import pyarrow.fs

        try:
            if "://" in source:
                system, path = pyarrow.fs.FileSystem.from_uri(source)
                file = system.open_input_file(path)
            else:
                file = Path(source).open("rb")  # noqa: SIM115  # closed below, outside of this try
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"the video {source!r} cannot be read ({error}): fix its path or URI") from error
        with file:
            yield file
    else:
        yield source


def _container(file: BinaryIO, limits: Limits, uploaded: bool) -> Any:
    kind = _kind(file.read(HEADER_BYTES))
    if uploaded and kind == "mov" and (samples := claimed_samples(file)) > limits.video_frames:
        raise MediaTooLargeError(
            f"the video's header claims {samples:,} samples, over the limit of {limits.video_frames:,}: shorten it"
        )
    file.seek(0)
    return av.open(
        file, "r", format=kind, options=dict(OPEN_OPTIONS), metadata_errors="replace", buffer_size=BUFFER_BYTES
    )


def _kind(head: bytes) -> str:
    """Return FFmpeg's name of a file's container, by its first bytes."""
    if not head:
        raise BrokenMediaError("the video is empty (0 bytes): send the bytes of a video file")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if any(head[skip : skip + 1] == head[skip + size : skip + size + 1] == b"G" for skip, size in ((0, 188), (4, 192))):
        return "mpegts"
    raise UnsupportedMediaError(f"the content is not a video of a known container: send {CONTAINERS}")


def _sample(
    container: Any, rate: float, max_frames: int, size: int, limits: Limits, part: tuple[float, float]
) -> Frames:
    stream = _video_stream(container, limits)
    reader = VideoReader(container, stream, limits)
    duration = reader.duration()
    if duration > limits.video_seconds:
        raise MediaTooLargeError(
            f"the video lasts {duration:,.0f} s, over the limit of {limits.video_seconds:,.0f} s: cut it"
        )
    times = sampling_times(duration, rate, max_frames, part)
    pixels: list[NDArray[np.uint8]] = []
    seconds: list[float] = []
    for time in times:
        frame = reader.frame_at(time)
        if frame is None:
            continue
        shown = reader.time(frame)
        if seconds and shown == seconds[-1]:
            if not reader.damaged:
                pixels.append(pixels[-1])
                seconds.append(shown)
            continue
        pixels.append(_square(frame, size, float(stream.sample_aspect_ratio or 1)))
        seconds.append(shown)
    if len(pixels) < MIN_DECODED_FRACTION * len(times) or not pixels:
        raise broken(f"{len(pixels)} of {len(times)} sampled frames could be decoded")
    return Frames(np.stack(pixels), np.array(seconds))


def _video_stream(container: Any, limits: Limits) -> Any:
    """Return the first stream of moving pictures, its decoder not yet opened."""
    streams = [s for s in container.streams.video if av.stream.Disposition.attached_pic not in s.disposition]
    if not streams:
        if not len(container.streams):
            raise broken("nothing of it can be found")
        kinds = ", ".join(sorted({"cover" if s in container.streams.video else s.type for s in container.streams}))
        raise UnsupportedMediaError(f"the file has no video in it (found: {kinds}): send one with pictures")
    stream = streams[0]
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        name = context.name if context is not None else "unknown"
        raise UnsupportedMediaError(f"the video's codec {name!r} is not supported: convert it to H.264 in MP4")
    if context.width * context.height > limits.video_pixels:
        raise MediaTooLargeError(
            f"the video is {context.width} × {context.height} pixels, over the limit of {limits.video_pixels:,} "
            "pixels a frame: shrink it first"
        )
    context.options = {"max_pixels": str(limits.video_pixels)}  # a header can be wrong, and the size can change later
    context.thread_count = 1  # rows are decoded in parallel; every thread would hold frames of its own
    return stream


def _square(frame: Any, size: int, aspect: float) -> NDArray[np.uint8]:
    """Fit a frame into `[3, size, size]`: upright, pixels made square, on white. FFmpeg shrinks it before RGB.

    HDR becomes sRGB, its reference white (203 cd/m², ITU-R BT.2408) white.
    """
    width, height = frame.width * aspect, frame.height
    scale = size / max(width, height)
    colours = SRGB if frame.color_trc in HDR else {}
    small = frame.reformat(
        max(1, round(width * scale)), max(1, round(height * scale)), "rgb24", interpolation="AREA", threads=1, **colours
    )
    upright = np.rot90(small.to_ndarray(), round(frame.rotation / 90))
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - upright.shape[0]) // 2, (size - upright.shape[1]) // 2
    square[top : top + upright.shape[0], left : left + upright.shape[1]] = upright
    return np.ascontiguousarray(square.transpose(2, 0, 1))
