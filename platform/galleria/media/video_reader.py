"""Reads one stream of an open video file and finds the frame on display at a given time."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import av

from galleria.errors import BrokenMediaError, MediaTooLargeError
from galleria.media.limits import Limits

TIME_TOLERANCE_S = 2e-3
"""Largest error of a time: Matroska stores milliseconds."""

SEEK_COST_FRAMES = 12
"""A seek costs as much as decoding so many frames: nearer frames are reached by decoding on.

Measured with H.264 from 128 to 1080 lines and keyframes every 5 to 50 frames: 4 to 13."""


class VideoReader:
    """Reads a stream in the order of its times, seeking to keyframes ahead.

    Attributes:
        damaged: something could not be decoded.
    """

    def __init__(self, container: Any, stream: Any, limits: Limits) -> None:
        self.damaged = False
        self._container = container
        self._stream = stream
        self._limits = limits
        self._begin = stream.start_time or 0
        self._step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        self._packets = 0
        self._frames: Iterator[Any] | None = None
        self._shown: Any = None
        self._next: Any = None
        self._can_seek = True
        if container.format.name.startswith("matroska"):
            self._seek(0)  # reads the index, which is at the end

    def time(self, frame: Any) -> float:
        """Return when a frame is presented, in seconds from the start of the video."""
        return float((frame.pts - self._begin) * self._stream.time_base)

    def duration(self) -> float:
        """Return the duration in seconds: from the header, or else measured by reading all packets, without decoding.

        A header may leave out what is shown last, as FFmpeg's do where frames are reordered and their rate varies: the
        packets from the last keyframe on are looked at, too.

        Raises:
            BrokenMediaError: there is no frame, or all have the same time.
        """
        seconds = float((self._stream.duration or 0) * self._stream.time_base)
        if seconds <= 0:
            seconds = (self._container.duration or 0) / av.time_base
        seconds = self._measured() if seconds <= 0 else max(seconds, self._tail_end())
        if seconds <= 0:
            raise BrokenMediaError("the video holds no frames: send a whole video")
        return seconds

    def _tail_end(self) -> float:
        """Return when the last frame ends, in seconds, if the file's index leads to it; 0 otherwise."""
        entries = self._stream.index_entries
        if not len(entries):
            return 0.0
        times, durations = [self._begin], []
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(entries[-1].timestamp, stream=self._stream)
            for packet in self._container.demux(self._stream):
                self._count()
                if packet.size and packet.pts is not None:
                    times.append(packet.pts)
                    durations.append(packet.duration or 0)
        # Durations are differences in decoding order: of reordered frames, the shortest one is right.
        end = max(times) + min(filter(None, durations), default=0)
        return float((end - self._begin) * self._stream.time_base)

    def _measured(self) -> float:
        times, end = set(), self._begin
        for packet in self._container.demux(self._stream):
            self._count()
            if packet.size:
                times.add(packet.pts)
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        if times and len(times) < min(2, self._packets - 1):  # the last packet is an empty one
            raise broken("its frame rate is undefined: 0 frames a second")
        self._seek(0)
        return float((end - self._begin) * self._stream.time_base)

    def frame_at(self, time: float) -> Any | None:
        """Return the frame on display at `time`, which must not decrease between calls; None after the last one."""
        keyframe = self._keyframe_before(time)
        if self._frames is None or (self._can_seek and keyframe > self._position() + SEEK_COST_FRAMES * self._step):
            self._seek_keyframe(time if keyframe >= 0 else 0.0)
        while self._next is not None and self.time(self._next) <= time + TIME_TOLERANCE_S:
            self._shown, self._next = self._next, next(cast(Iterator[Any], self._frames), None)
        if self._shown is None:
            return self._next  # the video starts late
        lasts = max(float((self._shown.duration or 0) * self._stream.time_base), self._step)
        return (
            self._shown if self._next is not None or time < self.time(self._shown) + lasts + TIME_TOLERANCE_S else None
        )

    def _keyframe_before(self, time: float) -> float:
        """Return the time of the last keyframe up to `time` in the index; MPEG-TS has no index."""
        entries = self._stream.index_entries
        index = entries.search_timestamp(self._begin + int(time / self._stream.time_base))
        return -math.inf if index < 0 else float((entries[index].timestamp - self._begin) * self._stream.time_base)

    def _position(self) -> float:
        reached = self._next or self._shown
        return 0.0 if reached is None else self.time(reached)

    def _seek_keyframe(self, time: float) -> None:
        """Seek to a keyframe before `time`. An index has decoding times: with reordering a frame may be shown later."""
        position = self._position()
        for earlier in (0.0, 1.0, 10.0):
            self._restart(max(0.0, time - earlier))
            if self._next is not None and self.time(self._next) <= time + TIME_TOLERANCE_S:
                return
        self._can_seek = False  # the index is wrong: the file is damaged, or its end is missing
        self._restart(position)

    def _restart(self, time: float) -> None:
        self._seek(time)
        self._frames = self._decoded()
        self._shown, self._next = None, next(self._frames, None)

    def _seek(self, time: float) -> None:
        """Seek to the keyframe before `time`. Without an index, the start is reached from an earlier time only."""
        early = time == 0 and len(self._stream.index_entries) == 0
        to = self._begin + int((-1 if early else time) / self._stream.time_base)
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(to, stream=self._stream)

    def _decoded(self) -> Iterator[Any]:
        """Yield complete frames from here on. Those that FFmpeg cannot read, or had to guess at, are left out."""
        packets = self._container.demux(self._stream)
        begun = False  # before the first complete frame come those that depend on frames before the keyframe
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.damaged = True
                return
            if packet is None:
                return
            self._count()
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged = True
                continue
            for frame in frames:
                if frame.is_corrupt or frame.pts is None:
                    self.damaged |= begun
                else:
                    begun = True
                    yield frame

    def _count(self) -> None:
        self._packets += 1
        if self._packets > self._limits.video_frames:
            raise MediaTooLargeError(
                f"more than {self._limits.video_frames:,} frames would have to be read: cut the video, or encode it "
                "with keyframes and a lower rate"
            )


def broken(reason: str) -> BrokenMediaError:
    """Return the error of a damaged file."""
    return BrokenMediaError(f"the video is damaged or cut short ({reason}): send the whole file, or convert it again")
