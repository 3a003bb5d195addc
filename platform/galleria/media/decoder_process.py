"""The program of a child process that decodes the pictures or videos of strangers, and can do little else.

    python -m galleria.media.decoder_process image|video DESCRIPTOR

It reads tasks from its standard input, a socket: lines of JSON. The encoded bytes are in memory that it shares with its
parent, by the file of that descriptor; pixels come back there, and a line of JSON for each task on the socket.
`galleria.media.isolated` is the other side. It imports neither torch nor pyarrow, so that it starts fast.
"""

import contextlib
import ctypes
import importlib
import json
import mmap
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from galleria.errors import BrokenMediaError, DataError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.limits import LIMITS, Limits

SHARED_BYTES = max(4 * LIMITS.image_pixels, LIMITS.video_bytes)
"""Bytes of the shared memory: the largest picture, decoded, and the largest video, encoded."""

MEMORY_BYTES = 24 * LIMITS.image_pixels
"""Memory that a task may use: six copies of the largest picture in 4 bytes a pixel."""

MAX_MESSAGE_CHARACTERS = 1000
NEW_USER, NEW_NETWORK, NEW_IPC, NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 0x08000000, 38
"""Flags of unshare(2) and prctl(2)."""

Task = Mapping[str, Any]


def main(kind: str, descriptor: int) -> None:
    """Serve tasks until the parent closes the socket."""
    shared = mmap.mmap(descriptor, SHARED_BYTES)
    run = _images() if kind == "image" else _videos()
    _send({"isolation": restrict(MEMORY_BYTES)})
    for line in sys.stdin.buffer:
        task = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, task["timeout_s"])  # ends the process, also where the parent is gone
        try:
            reply = run(task, shared)
        except DataError as error:
            reply = {"error": type(error).__name__, "message": str(error)[:MAX_MESSAGE_CHARACTERS]}
        except Exception as error:
            reply = {"error": BrokenMediaError.__name__, "message": repr(error)[:MAX_MESSAGE_CHARACTERS]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(reply)


def restrict(memory_bytes: int) -> list[str]:
    """Give up for good what decoding does not need; return the names of the protections that hold here.

    Args:
        memory_bytes: address space that the process may use from now on.
    """
    protections = []
    with Path(os.devnull).open("r+b") as null:
        os.dup2(null.fileno(), 2)  # FFmpeg and libtiff print what a file makes them print
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # where the machine's memory runs out, this process ends, not its parent
            Path("/proc/self/oom_score_adj").write_text("1000")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory_bytes += pages * resource.getpagesize()
        libc = ctypes.CDLL(None)
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        # Needs no privileges, and takes root's away; containers often forbid it.
        if libc.unshare(NEW_USER | NEW_NETWORK | NEW_IPC) == 0:
            protections.append("namespaces")
    limits = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 0,  # last: no file and no socket can be opened any more
    }
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
            protections.append(name)
    return protections


def _images() -> Callable[[Task, mmap.mmap], Mapping[str, Any]]:
    # All that Pillow would import later, when no file can be opened any more.
    from PIL import AvifImagePlugin, Image, ImageCms, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    from galleria.media.heif import register_heif
    from galleria.media.images import decode_image

    Image.preinit()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # no others can be started here
    with contextlib.suppress(UnsupportedMediaError):
        register_heif("HEIF")

    def run(task: Task, shared: mmap.mmap) -> Mapping[str, Any]:
        image = decode_image(shared[: task["bytes"]], Limits(**task["limits"]), fit=task["fit"])
        pixels = image.tobytes("raw", "RGBX")  # as Pillow has it in memory
        shared[: len(pixels)] = pixels
        return {"shape": (image.height, image.width, 4)}

    return run


def _videos() -> Callable[[Task, mmap.mmap], Mapping[str, Any]]:
    import av

    from galleria.media.videos import sample_frames

    for module in pkgutil.walk_packages(av.__path__, "av."):  # all that PyAV imports later
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)

    def run(task: Task, shared: mmap.mmap) -> Mapping[str, Any]:
        options = (task["rate"], task["max_frames"], task["size"], Limits(**task["limits"]), tuple(task["part"]))
        frames = sample_frames(shared[: task["bytes"]], *options)
        pixels, seconds = frames.pixels.tobytes(), frames.seconds.tobytes()
        if len(pixels) + len(seconds) > SHARED_BYTES:
            raise MediaTooLargeError(
                f"{len(frames.pixels)} frames of {task['size']} pixels are over the limit of {SHARED_BYTES:,} bytes: "
                "send a shorter video"
            )
        shared[: len(pixels)] = pixels
        shared[len(pixels) : len(pixels) + len(seconds)] = seconds
        return {"shape": frames.pixels.shape}

    return run


def _send(reply: Mapping[str, Any]) -> None:
    os.write(0, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
