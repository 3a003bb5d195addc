"""Videos for tests, encoded when they are needed."""

import io
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def solid(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Picture:
    """Return a frame of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def numbered(count: int) -> list[Picture]:
    """Frames that show their index, 0…255, in eight stripes: white for a 1, the highest bit on the left."""
    bits = np.unpackbits(np.arange(count, dtype=np.uint8)[:, None], axis=1)
    return list(np.broadcast_to((bits * 255).repeat(8, 1)[:, None, :, None], (count, 48, 64, 3)).copy())


def numbers(pixels: NDArray[np.uint8]) -> list[int]:
    """Return the index of the frame of `numbered` in each of `[T, 3, 32, 32]` pixels."""
    stripes = pixels[:, :, 8:24].reshape(len(pixels), -1, 8, 4).mean((1, 3))
    return np.packbits(stripes > 127, axis=1)[:, 0].tolist()


def film(
    pictures: Iterable[Picture],
    rate: int = 10,
    container: str = "mp4",
    codec: str = "libx264",
    gop: int = 12,
    times: Sequence[float] | None = None,
    sound: bool = False,
    **options: str,
) -> bytes:
    """Encode frames, of a constant rate or presented at `times` (in seconds, exact to the millisecond).

    Further options are the muxer's and libx264's.
    """
    arguments = (list(pictures), rate, container, codec, gop, times, sound, options)
    if codec != "libsvtav1":
        return _encode(*arguments)
    # As root, SVT-AV1 puts its process and all later threads under real-time priority: it gets a process of its own.
    program = (
        "import pickle, sys; from tests.media.films import _encode; "
        "sys.stdout.buffer.write(_encode(*pickle.load(sys.stdin.buffer)))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=pickle.dumps(arguments), stdout=subprocess.PIPE, check=True, cwd=root).stdout


def _encode(
    pictures: Sequence[Picture],
    rate: int,
    container: str,
    codec: str,
    gop: int,
    times: Sequence[float] | None,
    sound: bool,
    options: dict[str, str],
) -> bytes:
    muxing = {name: options.pop(name) for name in ("movflags", "output_ts_offset") if name in options}
    with (
        tempfile.NamedTemporaryFile() as out,  # "faststart" opens its file a second time
        av.open(out.name, "w", format=container, options={"fflags": "+bitexact", **muxing}) as file,
    ):
        stream = file.add_stream(codec, rate=1000 if times else rate)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "10", **options}
        track = file.add_stream("aac", rate=8000) if sound else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if index == 0:
                stream.width, stream.height = frame.width, frame.height
            frame.pts = round(times[index] * 1000) if times else index
            frame.time_base = Fraction(1, 1000 if times else rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if track is not None:
            file.mux(track.encode(_silence()))
            file.mux(track.encode())
        file.close()
        return Path(out.name).read_bytes()


def hdr_film(signal: tuple[float, float, float], transfer: str) -> bytes:
    """Return a QuickTime file of a second in one colour: HEVC with 10 bits and ITU-R BT.2020's colours.

    Args:
        signal: red, green and blue, 0 to 1, as the transfer function encodes them.
        transfer: its name in x265, "arib-std-b67" (HLG) or "smpte2084" (PQ).
    """
    red, green, blue = signal
    luma = 0.2627 * red + 0.678 * green + 0.0593 * blue
    planes = (64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746)
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        stream = file.add_stream("libx265", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        stream.options = {"preset": "ultrafast", "crf": "4", "x265-params": f"{colours}:log-level=error:pools=none"}
        for index in range(4):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for plane, value in zip(frame.planes, planes, strict=True):
                plane.update(np.full(plane.buffer_size // 2, round(value), "<u2").tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 4)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def sound_only(cover: bool = False) -> bytes:
    """Return an MP4 file with a second of silence, and if asked with a cover picture like music files."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        track = file.add_stream("aac", rate=8000)
        if cover:
            picture = file.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        file.mux(track.encode(_silence()))
        if cover:
            file.mux(picture.encode(av.VideoFrame.from_ndarray(solid((200, 0, 0)), format="rgb24")))
            file.mux(picture.encode())
        file.mux(track.encode())
    return out.getvalue()


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    return frame


def write_long(file: str, seconds: int, width: int, height: int, rate: int = 25) -> None:
    """Write a long MP4 that repeats two seconds of noise, encoded once. A keyframe every 2 s."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    source = io.BytesIO()
    with av.open(source, "w", format="mp4") as encoded:
        stream = encoded.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "25", "bf": "0"}
        for index in range(2 * rate):
            picture = np.roll(coarse, index, 1).repeat(8, 0).repeat(8, 1)
            encoded.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        encoded.mux(stream.encode())
    source.seek(0)
    with av.open(source) as short, av.open(file, "w", format="mp4") as out:
        track = out.add_stream_from_template(short.streams.video[0])
        packets = [packet for packet in short.demux(video=0) if packet.size]
        step = round(1 / rate / packets[0].time_base)
        for index in range(seconds * rate):
            old = packets[index % len(packets)]
            packet = av.Packet(bytes(old))
            packet.stream, packet.time_base, packet.is_keyframe = track, old.time_base, old.is_keyframe
            packet.pts = packet.dts = index * step
            packet.duration = step
            out.mux(packet)
