"""Decodes the pictures and videos of strangers in child processes, whose death costs one picture or video.

The child gives up the network, files and further processes, and has limits on memory and time
(`galleria.media.decoder_process`). Nothing that it sends is unpickled: sizes and errors come as bounded JSON, pixels
through shared memory.
"""

import atexit
import contextlib
import fcntl
import functools
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galleria import errors
from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError
from galleria.media import decoder_process
from galleria.media.decoder_process import SHARED_BYTES
from galleria.media.limits import Limits

Kind = Literal["image", "video"]
START_TIMEOUT_S = 60.0
MAX_REPLY_BYTES = 8192
KEPT_BYTES = 1 << 23
"""Shared memory that a process keeps between tasks; more is given back to the system."""

PROGRAM = ("-m", decoder_process.__name__)
ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
"""Variables that the child inherits. Others may hold keys."""

CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),  # glibc would fault in the pages of every picture anew
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


class IsolatedDecoder:
    """Decodes in child processes; a `galleria.media.decoder.Decoder`. Any thread may use it.

    Attributes:
        image_timeout_s: time for one picture.
        video_timeout_s: time for one video.
    """

    def __init__(self, image_timeout_s: float, video_timeout_s: float, pool: "DecoderPool | None" = None) -> None:
        self.image_timeout_s = image_timeout_s
        self.video_timeout_s = video_timeout_s
        self._pool = pool or decoder_pool()

    def start(self, kind: Kind, count: int) -> None:
        """Start processes ahead, so that the first requests do not wait for them."""
        self._pool.start(kind, count)

    def image(self, data: bytes, limits: Limits, fit: int | None) -> Image.Image:
        """Return an RGB picture. Raises as `decode_image`; BrokenMediaError where the process ends or is too slow."""
        task = {"limits": limits.model_dump(), "fit": fit}
        with self._pool.process("image") as process:
            pixels = process.run(task, data, self.image_timeout_s)
            if pixels.ndim != 3 or pixels.shape[2] != 4:
                raise process.ended()
            height, width, _ = pixels.shape
            return Image.frombytes("RGB", (width, height), pixels, "raw", "RGBX")

    def frames(
        self, data: bytes, rate: float, max_frames: int, size: int, limits: Limits, part: tuple[float, float]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return `pixels` and `seconds`. Raises as `sample_frames`; BrokenMediaError as `image`."""
        task = {"rate": rate, "max_frames": max_frames, "size": size, "limits": limits.model_dump(), "part": part}
        with self._pool.process("video") as process:
            pixels = process.run(task, data, self.video_timeout_s)
            if pixels.shape[1:] != (3, size, size) or len(pixels) > max_frames:
                raise process.ended()
            seconds = process.array(np.float64, (len(pixels),), pixels.nbytes)
            return pixels.copy(), seconds.copy()


class DecoderPool:
    """Child processes, as many of a kind as threads decode it at a time.

    Args:
        program: what a process runs, as arguments of Python; the kind and the descriptor follow.
    """

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._idle: dict[Kind, list[DecoderProcess]] = {"image": [], "video": []}
        self._count: dict[Kind, int] = {"image": 0, "video": 0}

    def idle(self, kind: Kind) -> list[int]:
        """Return the ids of the processes that decode nothing at the moment."""
        with self._lock:
            return [process.pid for process in self._idle[kind]]

    def start(self, kind: Kind, count: int) -> None:
        """Start processes until there are `count`; does not wait for them."""
        with self._lock:
            while self._count[kind] < count:
                self._idle[kind].insert(0, DecoderProcess(kind, self._program))
                self._count[kind] += 1

    @contextlib.contextmanager
    def process(self, kind: Kind) -> Iterator["DecoderProcess"]:
        """Yield a process that no other thread uses; another one is started where it ends.

        Raises:
            BrokenMediaError: it ended, or was too slow and has been killed.
        """
        process = self._take(kind)
        try:
            yield process
        except DecoderEndedError as error:
            process.close()
            process = DecoderProcess(kind, self._program)
            raise BrokenMediaError(f"the {kind} cannot be decoded: {error}: send another file") from error
        finally:
            process.free()
            with self._lock:
                self._idle[kind].append(process)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            for kind, idle in self._idle.items():
                self._count[kind] -= len(idle)
                for process in idle:
                    process.close()
                idle.clear()

    def _take(self, kind: Kind) -> "DecoderProcess":
        with self._lock:
            if not self._idle[kind]:
                self._count[kind] += 1
                return DecoderProcess(kind, self._program)
            process = self._idle[kind].pop()
        if process.running():
            return process
        process.close()  # killed while it was idle: that costs nobody a request
        return DecoderProcess(kind, self._program)


@functools.cache
def decoder_pool() -> DecoderPool:
    """Return the pool of this process; its child processes end with it."""
    pool = DecoderPool()
    atexit.register(pool.close)
    return pool


class DecoderEndedError(Exception):
    """The child process ended during a task, or was ended because it was too slow or sent what is not a reply."""


class DecoderProcess:
    """One child process. For one thread at a time."""

    def __init__(self, kind: Kind, program: Sequence[str] = PROGRAM) -> None:
        self._shared, descriptor = _shared_memory(SHARED_BYTES)
        self._used = 0
        self._socket, theirs = socket.socketpair()
        self._isolation: list[str] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", *program, kind, str(descriptor)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the parent
            )
        finally:
            theirs.close()
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process's id in the system."""
        return self._process.pid

    def running(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.poll() is None

    def isolation(self) -> list[str]:
        """Wait until the process has started; return the names of the protections that hold in it.

        Raises:
            RuntimeError: it cannot be started.
        """
        if self._isolation is None:
            try:
                self._isolation = list(map(str, self._receive(START_TIMEOUT_S)["isolation"]))
            except DecoderEndedError as error:
                raise RuntimeError(f"the process that decodes pictures and videos did not start: {error}") from error
        return self._isolation

    def run(self, task: Mapping[str, Any], data: bytes, timeout_s: float) -> NDArray[np.uint8]:
        """Return what `data` decodes to: a view of the shared memory, to be copied before the next task.

        Raises:
            DataError: of the class that the decoder raised.
            DecoderEndedError: the process ended, or was too slow.
            RuntimeError: it cannot be started.
        """
        self.isolation()
        if len(data) > SHARED_BYTES:
            raise MediaTooLargeError(f"the file has {len(data):,} bytes, over the limit of {SHARED_BYTES:,}: shrink it")
        self._used = len(data)
        self._shared[: len(data)] = data
        message = json.dumps({"bytes": len(data), "timeout_s": timeout_s, **task})
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(message.encode() + b"\n")
        except OSError as error:
            raise self.ended() from error
        reply = self._receive(timeout_s)
        if "error" in reply:
            kind = getattr(errors, str(reply["error"]), None)
            if not (isinstance(kind, type) and issubclass(kind, DataError)):
                kind = BrokenMediaError
            raise kind(str(reply.get("message")))
        return self.array(np.uint8, reply.get("shape"))

    def array(self, dtype: Any, shape: Any, offset: int = 0) -> NDArray[Any]:
        """Return a view of the shared memory.

        Raises:
            DecoderEndedError: it does not fit.
        """
        try:
            values = np.frombuffer(self._shared, dtype, math.prod(shape), offset).reshape(shape)
            if values.size == 0:
                raise ValueError("it is empty")
        except (TypeError, ValueError, OverflowError) as error:
            raise self.ended() from error
        self._used = max(self._used, offset + values.nbytes)
        return values

    def free(self) -> None:
        """Give much shared memory back to the system."""
        if self._used > KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            self._shared.madvise(mmap.MADV_REMOVE)
            self._used = 0

    def close(self) -> None:
        """End the process; it has nothing to finish."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def ended(self, reason: str = "") -> DecoderEndedError:
        """Kill the process, and return the error of it."""
        self._process.kill()
        return DecoderEndedError(reason or f"its decoder ended with code {self._process.wait()}")

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        line = b""
        try:
            while not line.endswith(b"\n"):
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                part = self._socket.recv(MAX_REPLY_BYTES)
                line += part
                if not part or len(line) > MAX_REPLY_BYTES:
                    raise self.ended()
            reply = json.loads(line)
        except TimeoutError as error:
            raise self.ended(f"it took longer than {timeout_s:g} s") from error
        except (OSError, ValueError, RecursionError) as error:
            raise self.ended() from error
        if not isinstance(reply, dict):
            raise self.ended()
        return reply


def _shared_memory(size: int) -> tuple[mmap.mmap, int]:
    """Return memory and the descriptor of its file; pages that are not used take no memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        # The child could shrink it otherwise, and reading beyond its end kills a process.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    else:
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            descriptor = os.dup(file.fileno())
    return mmap.mmap(descriptor, size), descriptor


def _environment() -> dict[str, str]:
    paths = [str(Path(errors.__file__).parents[1]), *filter(None, map(os.path.abspath, sys.path))]
    inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**inherited, **CHILD_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
