"""Uploads are decoded in child processes: with equal results, without rights, and their death costs one upload."""

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from galleria.errors import BrokenMediaError, DataError, MediaError
from galleria.media.decoder import decode_with
from galleria.media.images import decode_image
from galleria.media.isolated import KEPT_BYTES, DecoderPool, DecoderProcess, IsolatedDecoder
from galleria.media.limits import LIMITS, Limits
from galleria.media.videos import Frames, sample_frames
from tests.media.films import film, numbered, sound_only
from tests.media.pictures import encoded, every_format, picture
from tests.media.test_bad_bytes import BOMBS, OTHER_KINDS, chunk
from tests.media.test_variants import COLOURED, GREYS
from tests.media.test_videos import KINDS, TEN_SECONDS

PICTURES = {
    **COLOURED,
    **GREYS,
    **{f"bomb: {name}": content for name, content in BOMBS.items()},
    **OTHER_KINDS,
    **{f"half of {name}": content[: len(content) // 2] for name, content in every_format().items()},
    "empty": b"",
    "lab tiff": encoded(Image.new("LAB", (8, 8), (90, 120, 130)), "TIFF"),
    "upside down": encoded(picture(), "PNG", exif=Image.Exif()),
    "large jpeg": encoded(picture().resize((1200, 900)), "JPEG"),
}


@pytest.fixture(scope="module")
def pool():
    pool = DecoderPool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def decoder(pool):
    return IsolatedDecoder(60, 60, pool)


@pytest.fixture
def pool_of():
    """Return a pool whose processes run other code."""
    pools = []

    def make(code):
        pools.append(DecoderPool(("-c", code)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def outcome(decoder, decode, *arguments, **options):
    """What decoding returns or raises."""
    with decode_with(decoder):
        try:
            result = decode(*arguments, **options)
        except DataError as error:
            return type(error), str(error)
    if isinstance(result, Frames):
        return result.pixels.tobytes(), result.seconds.tolist()
    return result.mode, result.size, result.tobytes()


@pytest.mark.parametrize("name", PICTURES)
def test_picture_equals_own_process(decoder, name):
    for fit in (None, 20):
        alone = outcome(None, decode_image, PICTURES[name], fit=fit)
        assert outcome(decoder, decode_image, PICTURES[name], fit=fit) == alone


@pytest.mark.parametrize("kind", KINDS)
def test_video_equals_own_process(decoder, kind):
    container, codec = KINDS[kind]
    options = {"movflags": "frag_keyframe+empty_moov"} if kind.startswith("fragmented") else {}
    content = film(numbered(30), container=container, codec=codec, **options)
    for upload in (content, content[: len(content) // 3]):
        assert outcome(decoder, sample_frames, upload, 1, 8, 32) == outcome(None, sample_frames, upload, 1, 8, 32)


@pytest.mark.parametrize("content", [b"", b"text", sound_only(), OTHER_KINDS["mp4"]])
def test_bad_video_equals_own_process(decoder, content):
    rejected = outcome(decoder, sample_frames, content, 1, 8, 32)
    assert rejected == outcome(None, sample_frames, content, 1, 8, 32)
    assert issubclass(rejected[0], MediaError)


def test_limits_and_part_reach_the_process(decoder):
    arguments = (TEN_SECONDS, 1, 4, 32, Limits(video_seconds=20), (0.2, 0.6))
    assert outcome(decoder, sample_frames, *arguments) == outcome(None, sample_frames, *arguments)
    small = Limits(image_pixels=64 * 48 - 1)
    assert outcome(decoder, decode_image, encoded(picture(), "PNG"), small) == (
        outcome(None, decode_image, encoded(picture(), "PNG"), small)
    )


def test_files_on_disk_stay_in_this_process(decoder, pool_of, tmp_path):
    """Jobs read their user's own files."""
    path = tmp_path / "film.mp4"
    path.write_bytes(TEN_SECONDS)
    killers = IsolatedDecoder(60, 60, pool_of("exit()"))
    assert outcome(killers, sample_frames, str(path), 1, 4, 32) == outcome(None, sample_frames, str(path), 1, 4, 32)


def test_threads_share_the_pool(decoder, pool):
    names = sorted(COLOURED) * 4
    alone = {name: outcome(None, decode_image, COLOURED[name]) for name in COLOURED}
    results = {}

    def work(number):
        for index in range(number, len(names), 3):
            results[index] = outcome(decoder, decode_image, COLOURED[names[index]])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(len(names))] == [alone[name] for name in names]
    assert len(pool.idle("image")) <= 3


PROBE = """
import os, socket, sys
from galleria.media.decoder_process import restrict
from galleria.media.images import decode_image
from galleria.errors import MediaTooLargeError
content = sys.stdin.buffer.read()
decode_image(content)
held = restrict(40_000_000)
def tried(action):
    try:
        action()
    except OSError as error:
        return "refused"
    except MemoryError:
        return "memory"
    except MediaTooLargeError:
        return "too large"
    return "done"
os.close(2)  # its number is free for another file now
print(*held)
print(tried(lambda: open("/etc/hostname")), tried(lambda: open("/tmp/x", "w")), tried(socket.socket))
print(tried(os.pipe), tried(lambda: os.dup(1)), tried(lambda: bytearray(60_000_000)))
print(tried(lambda: decode_image(content)))
"""


def test_process_gives_up_its_rights():
    """S6: no file and no socket can be opened, and memory is limited."""
    large = encoded(Image.new("RGB", (5000, 4000)), "PNG")
    done = subprocess.run([sys.executable, "-c", PROBE], input=large, capture_output=True, check=True)
    held, *tried = done.stdout.decode().splitlines()
    assert {"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE"} <= set(held.split())
    assert tried == ["refused refused refused", "refused refused memory", "too large"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["image", "video"])
def test_process_inherits_no_secrets(kind, monkeypatch):
    monkeypatch.setenv("GALLERIA_WRITE_KEY", "a secret of the parent")
    process = DecoderProcess(kind)
    isolation = process.isolation()
    root = Path(f"/proc/{process.pid}")
    assert b"secret" not in (root / "environ").read_bytes()
    opened = sorted((root / "fd").iterdir(), key=lambda path: int(path.name))
    names = [str(path.readlink()).split(":")[0].split(" ")[0] for path in opened]
    assert names[:3] == ["socket", "/dev/null", "/dev/null"]
    assert set(names[3:]) == {"/memfd"}
    if "namespaces" in isolation:
        assert (root / "ns" / "net").readlink() != Path("/proc/self/ns/net").readlink()
    process.close()


def test_idle_death_costs_no_upload(decoder, pool):
    expected = outcome(None, decode_image, COLOURED["png"])
    for _ in range(3):
        outcome(decoder, decode_image, COLOURED["png"])
        for pid in pool.idle("image"):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert outcome(decoder, decode_image, COLOURED["png"]) == expected


def test_slow_process_is_killed(pool, decoder):
    content = encoded(picture(), "PNG")
    outcome(decoder, decode_image, content)
    for pid in (stopped := pool.idle("image")):
        os.kill(pid, signal.SIGSTOP)
    error, message = outcome(IsolatedDecoder(0.2, 0.2, pool), decode_image, content)
    assert error is BrokenMediaError
    assert "longer than 0.2 s" in message
    remaining = [pid for pid in stopped if Path(f"/proc/{pid}").exists()]
    assert len(remaining) == len(stopped) - 1
    for pid in remaining:
        os.kill(pid, signal.SIGCONT)
    assert outcome(decoder, decode_image, content) == outcome(None, decode_image, content)


START = "import os, sys; os.write(0, b'{\"isolation\": []}\\n'); sys.stdin.buffer.readline(); "
HOSTILE = {
    "killed": "os.kill(os.getpid(), 9)",
    "exit": "os._exit(0)",
    "noise": "os.write(0, b'\\xff\\x00noise\\n')",
    "no object": "os.write(0, b'[1]\\n')",
    "deep": "os.write(0, b'[' * 5000 + b'\\n')",
    "no shape": "os.write(0, b'{}\\n')",
    "large": "os.write(0, b'{\"shape\": [100000, 100000, 4]}\\n')",
    "huge": "os.write(0, b'{\"shape\": [1' + b'0' * 400 + b', 4, 4]}\\n')",
    "negative": "os.write(0, b'{\"shape\": [-1, -1, 4]}\\n')",
    "zero": "os.write(0, b'{\"shape\": [0, 5, 4]}\\n')",
    "float": "os.write(0, b'{\"shape\": [1.5, 2, 4]}\\n')",
    "text": 'os.write(0, b\'{"shape": "abc"}\\n\')',
    "dimensions": "os.write(0, b'{\"shape\": [2, 2]}\\n')",
    "channels": "os.write(0, b'{\"shape\": [2, 2, 3]}\\n')",
    "endless": "\nwhile True: os.write(0, b'x' * 1000)",
    "other error": 'os.write(0, b\'{"error": "SystemExit", "message": "m"}\\n\')',
    "unknown error": 'os.write(0, b\'{"error": [], "message": 7}\\n\')',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_process_costs_one_upload(name, pool_of):
    """S6: a decoder that a file has taken over ends its own request, and no more."""
    pool = pool_of(START + HOSTILE[name])
    for _ in range(2):
        error, _ = outcome(IsolatedDecoder(5, 5, pool), decode_image, COLOURED["png"])
        assert error is BrokenMediaError


def test_video_of_other_size_is_rejected(pool_of):
    reply = "os.write(0, b'{\"shape\": [1, 3, 64, 64]}\\n'); sys.stdin.buffer.readline()"
    pool = pool_of(START + reply)
    error, message = outcome(IsolatedDecoder(5, 5, pool), sample_frames, TEN_SECONDS, 1, 8, 32)
    assert error is BrokenMediaError
    assert "the video cannot be decoded" in message


def test_slow_reply_has_a_deadline(pool_of):
    pool = pool_of(START + "import time\nwhile True: os.write(0, b'x'); time.sleep(0.05)")
    error, message = outcome(IsolatedDecoder(0.3, 0.3, pool), decode_image, COLOURED["png"])
    assert (error, "longer than 0.3 s" in message) == (BrokenMediaError, True)


def test_process_that_does_not_start_is_an_error(pool_of):
    pool = pool_of("raise SystemExit(3)")
    with decode_with(IsolatedDecoder(5, 5, pool)), pytest.raises(RuntimeError, match=r"did not start: .* code 3"):
        decode_image(COLOURED["png"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shared_memory_is_given_back(pool, decoder):
    large = Image.fromarray(np.full((2000, 1500, 3), 7, np.uint8))
    assert KEPT_BYTES < 4 * 2000 * 1500
    outcome(decoder, decode_image, encoded(large, "PNG"))
    pid = pool.idle("image")[-1]
    files = [path for path in Path(f"/proc/{pid}/fd").iterdir() if "memfd" in str(path.readlink())]
    assert files
    assert all(512 * path.stat().st_blocks <= KEPT_BYTES for path in files)


def test_process_ends_with_its_parent():
    script = (
        "from galleria.media.isolated import DecoderProcess; import os, signal\n"
        "process = DecoderProcess('image'); process.isolation(); print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    child = Path(f"/proc/{int(done.stdout)}")
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        pass


def test_largest_picture_fits_into_memory(decoder):
    """I2: a picture at the limit, of the kind that is copied most often: transparent and turned."""
    side = int(LIMITS.image_pixels**0.5)
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    pixels = zlib.compress(bytes((1 + 4 * side) * side), 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)) + chunk(b"eXIf", exif.tobytes()[6:])
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    with decode_with(decoder):
        assert decode_image(content).size == (side, side)
