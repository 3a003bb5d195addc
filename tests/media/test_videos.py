"""Videos to frames: the right ones, at their true times, in little memory; and which are rejected."""

import io
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import BrokenMediaError, DataError, MediaError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.boxes import claimed_samples
from galleria.media.limits import Limits
from galleria.media.videos import sample_frames, sampling_times
from tests.media.films import film, hdr_film, numbered, numbers, solid, sound_only, write_long

TEN_SECONDS = film(numbered(100))
KINDS = {
    "mp4": ("mp4", "libx264"),
    "mov": ("mov", "libx264"),
    "fragmented mp4": ("mp4", "libx264"),
    "mp4 with hevc": ("mp4", "libx265"),
    "mp4 with av1": ("mp4", "libsvtav1"),
    "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx-vp9"),
    "avi": ("avi", "mpeg4"),
    "avi of pictures": ("avi", "mjpeg"),
    "mpeg-ts": ("mpegts", "libx264"),
}


class TestSamplingTimes:
    @pytest.mark.parametrize(
        ("duration", "rate", "max_frames", "expected"),
        [
            (4, 1, 16, [0, 1, 2, 3]),
            (4.9, 1, 16, [0, 1, 2, 3]),
            (3.9999, 1, 16, [0, 1, 2, 3]),
            (1, 1, 16, [0]),
            (2, 2.5, 16, [0, 0.4, 0.8, 1.2, 1.6]),
            (30, 0.1, 16, [0, 10, 20]),
            (10, 1, 5, [1, 3, 5, 7, 9]),
            (9, 1, 3, [1, 4, 7]),
            (20, 1, 1, [10]),
            (17, 1, 16, [*range(8), *range(9, 17)]),
        ],
    )
    def test_full_steps_are_thinned_evenly(self, duration, rate, max_frames, expected):
        assert sampling_times(duration, rate, max_frames) == pytest.approx(expected)

    def test_part_has_own_start_and_count(self):
        assert sampling_times(10, 1, 16, (0.25, 0.75)) == pytest.approx([2.5, 3.5, 4.5, 5.5, 6.5])

    def test_short_part_gives_one_frame(self):
        assert sampling_times(2, 1, 16, (0.1, 0.3)) == pytest.approx([0.2])

    @given(
        duration=st.floats(1, 1e4), rate=st.floats(0.05, 30), max_frames=st.integers(1, 64), begin=st.floats(0, 0.99)
    )
    def test_times_increase_inside_part(self, duration, rate, max_frames, begin):
        if duration * rate < 1:
            return
        times = sampling_times(duration, rate, max_frames, (begin, 1.0))
        assert 1 <= len(times) <= max_frames
        assert all(one < other for one, other in itertools.pairwise(times))
        assert begin * duration <= times[0] and times[-1] < duration

    def test_too_short_names_both_lengths(self):
        with pytest.raises(DataError, match=r"lasts 0.5 s, less than one sampling step of 1 s: use a longer video"):
            sampling_times(0.5, 1, 16)


class TestFrames:
    @pytest.mark.parametrize("kind", KINDS)
    def test_containers_give_displayed_frames(self, kind):
        """I5: each container gives its frames."""
        container, codec = KINDS[kind]
        fragments = {"movflags": "frag_keyframe+empty_moov"} if kind.startswith("fragmented") else {}
        content = film(numbered(60), container=container, codec=codec, **fragments)

        frames = sample_frames(content, 1, 16, 32)

        assert frames.pixels.shape == (6, 3, 32, 32) and frames.pixels.dtype == np.uint8
        assert frames.seconds.tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=2e-3)
        assert numbers(frames.pixels) == [0, 10, 20, 30, 40, 50]

    @pytest.mark.parametrize("source", ["path", "uri", "file", "bytes"])
    def test_source_kinds_are_read_alike(self, source, tmp_path):
        path = tmp_path / "a film.mp4"
        path.write_bytes(TEN_SECONDS)
        with path.open("rb") as file:
            given = {"path": str(path), "uri": path.as_uri(), "file": file, "bytes": TEN_SECONDS}[source]
            found = sample_frames(given, 1, 4, 32)

        assert found.seconds.tolist() == [1, 3, 6, 8]
        assert numbers(found.pixels) == [10, 30, 60, 80]

    def test_variable_rate_uses_frame_times(self):
        times = [0, 0.1, 0.2, 3, 3.5, 7, 7.1, 9, 9.5]
        for container in ("mp4", "matroska"):
            content = film(numbered(9), times=times, container=container, bf="0")

            frames = sample_frames(content, 1, 16, 32)

            assert frames.seconds.tolist()[:9] == pytest.approx([0, 0.2, 0.2, 3, 3.5, 3.5, 3.5, 7, 7.1])
            assert numbers(frames.pixels)[:9] == [0, 2, 2, 3, 4, 4, 4, 5, 6]

    @pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
    @pytest.mark.parametrize("gop", [12, 250])
    @pytest.mark.parametrize("reordered", ["0", "3"])
    def test_tail_of_variable_rate_is_seen(self, container, gop, reordered):
        """Of reordered frames at a varying rate, FFmpeg writes a duration that ends 20 s before the last one."""
        times = [*np.arange(0, 2, 0.04), 10, 20, 30, 40, 50]
        content = film(numbered(55), times=times, container=container, gop=gop, bf=reordered)

        frames = sample_frames(content, 1, 8, 32)

        assert frames.seconds.tolist() == pytest.approx([1.96, 1.96, 10, 20, 20, 30, 40, 40])
        assert numbers(frames.pixels) == [49, 49, 50, 51, 51, 52, 53, 53]

    @pytest.mark.parametrize(("transfer", "white"), [("arib-std-b67", 0.75), ("smpte2084", 0.58)])
    def test_hdr_reference_white_is_white(self, transfer, white):
        """ITU-R BT.2408."""
        for signal, expected in ((white, 255), (0, 0)):
            shown = sample_frames(hdr_film((signal,) * 3, transfer), 1, 4, 32).pixels[0, :, 16, 16]
            assert np.abs(shown.astype(int) - expected).max() <= 4

    @pytest.mark.parametrize("colour", [(200, 120, 80), (60, 90, 160), (128, 128, 128)])
    def test_hdr_colour_equals_formula(self, colour):
        """A colour of sRGB in BT.2020 (ITU-R BT.2087), its white at 203 cd/m², by PQ (SMPTE ST 2084)."""
        encoded = np.array(colour) / 255
        linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
        wide = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.088, 0.8956]]) @ linear
        power = (wide * 203 / 10_000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

        shown = sample_frames(hdr_film(tuple(signal), "smpte2084"), 1, 4, 32).pixels[0, :, 16, 16]

        assert np.abs(shown.astype(int) - colour).max() <= 12  # of 8 bits; the plain numbers would differ by 60

    def test_late_start_counts_from_first_frame(self):
        content = film(numbered(40), container="mpegts", output_ts_offset="100")

        assert sample_frames(content, 1, 16, 32).seconds.tolist() == pytest.approx([0, 1, 2, 3], abs=1e-3)

    @pytest.mark.parametrize("gop", [1, 5, 30, 250])
    @pytest.mark.parametrize("container", ["mp4", "matroska"])
    def test_seeking_equals_full_decoding(self, gop, container):
        content = film(numbered(100), gop=gop, container=container)
        with av.open(io.BytesIO(content)) as file:
            times = [float(frame.time) for frame in file.decode(video=0)]

        for rate, max_frames in ((1, 3), (0.3, 16), (4, 7), (10, 200)):
            frames = sample_frames(content, rate, max_frames, 32)
            sampled = sampling_times(10, rate, max_frames)
            expected = [max(index for index, time in enumerate(times) if time <= t + 2e-3) for t in sampled]
            assert numbers(frames.pixels) == expected
            assert frames.seconds.tolist() == pytest.approx([times[index] for index in expected])

    def test_frames_between_samples_are_skipped(self, tmp_path):
        path = tmp_path / "long.mp4"
        write_long(str(path), 120, 320, 240)

        class Counted(io.FileIO):
            total = 0

            def read(self, size: int = -1) -> bytes:
                content = super().read(size)
                Counted.total += len(content)
                return content

        with Counted(path) as file:
            frames = sample_frames(file, 1, 3, 32)

        assert frames.seconds.tolist() == [20, 60, 100]
        assert Counted.total < path.stat().st_size / 3

    def test_frames_are_fitted_on_white(self):
        pixels = sample_frames(film([solid((200, 0, 0), 64, 32)] * 10), 1, 16, 32).pixels[0]

        assert (pixels[:, :8] == 255).all() and (pixels[:, 24:] == 255).all()
        assert np.abs(pixels[:, 8:24].astype(int) - np.array([200, 0, 0])[:, None, None]).max() < 8

    @pytest.mark.parametrize(
        ("matrix", "corner"),
        [
            ((1, 0, 0, 1), (0, 0)),
            ((0, 1, -1, 0), (0, 1)),  # as phones held upright write it: shown a quarter turn clockwise
            ((-1, 0, 0, -1), (1, 1)),
            ((0, -1, 1, 0), (1, 0)),
        ],
        ids=["none", "quarter", "half", "three quarters"],
    )
    def test_turned_video_is_upright(self, matrix, corner):
        """The top left quarter is red: the corner (row, column) in which it stands after turning."""
        picture = solid((0, 0, 0), 64, 64)
        picture[:32, :32] = (250, 0, 0)
        content = bytearray(film([picture] * 10))
        offset = content.index(b"tkhd") + 44
        a, b, c, d = (value << 16 for value in matrix)
        content[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)

        red = sample_frames(bytes(content), 1, 16, 32).pixels[0, 0]

        quarters = red.reshape(2, 16, 2, 16).mean((1, 3))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
        assert quarters.max() > 200 and np.sort(quarters.ravel())[2] < 50

    def test_turned_wide_video_has_white_sides(self):
        content = bytearray(film([solid((0, 90, 0), 64, 32)] * 10))
        offset = content.index(b"tkhd") + 44
        content[offset : offset + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)

        pixels = sample_frames(bytes(content), 1, 16, 32).pixels[0]

        assert (pixels[:, :, :8] == 255).all() and (pixels[0, :, 8:24] < 30).all()

    def test_sound_is_skipped(self):
        content = film(numbered(20), sound=True)

        assert numbers(sample_frames(content, 1, 16, 32).pixels) == [0, 10]


class TestRefusals:
    def test_empty_bytes(self):
        with pytest.raises(BrokenMediaError, match=r"empty \(0 bytes\): send the bytes of a video"):
            sample_frames(b"", 1, 16, 32)

    def test_sound_only(self):
        with pytest.raises(UnsupportedMediaError, match=r"no video in it \(found: audio\)"):
            sample_frames(sound_only(), 1, 16, 32)

    def test_sound_with_cover_picture(self):
        with pytest.raises(UnsupportedMediaError, match=r"no video in it \(found: audio, cover\)"):
            sample_frames(sound_only(cover=True), 1, 16, 32)

    def test_header_without_frames(self):
        content = film(numbered(20), movflags="frag_keyframe+empty_moov")

        with pytest.raises(BrokenMediaError, match="holds no frames: send a whole video"):
            sample_frames(content[: content.index(b"moof") - 4], 1, 16, 32)

    @pytest.mark.parametrize("container", ["mp4", "matroska"])
    def test_shorter_than_one_step(self, container):
        with pytest.raises(DataError, match=r"lasts 0\.5 s, less than one sampling step of 1 s"):
            sample_frames(film(numbered(5), container=container), 1, 16, 32)

    def test_no_duration(self):
        content = bytearray(film(numbered(20), bf="0"))
        for name, skip in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
            offset = content.index(name) + skip
            content[offset : offset + 4] = bytes(4)
        offset = content.index(b"stts") + 12
        assert content[offset : offset + 4] == struct.pack(">I", 20)
        content[offset + 4 : offset + 8] = bytes(4)
        content = content.replace(b"elst", b"free")

        with pytest.raises(BrokenMediaError, match=r"frame rate is undefined: 0 frames a second.*convert it"):
            sample_frames(bytes(content), 1, 16, 32)

    @pytest.mark.parametrize(
        "content",
        [
            b"\0" * 500,
            b"plain text",
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
            b"ffconcat version 1.0\nfile /etc/hostname\n",
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n",
            b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
            b"GIF89a" + bytes(100),
        ],
        ids=["zeros", "text", "png", "wav", "hls playlist", "concat list", "sdp", "dash", "gif"],
    )
    def test_other_content_is_never_opened(self, content):
        with pytest.raises(UnsupportedMediaError, match="send MP4, QuickTime, Matroska, WebM, AVI or MPEG-TS"):
            sample_frames(content, 1, 16, 32)

    def test_rare_codec(self):
        with pytest.raises(UnsupportedMediaError, match=r"codec 'ffv1' is not supported: convert it to H\.264"):
            sample_frames(film(numbered(20), container="matroska", codec="ffv1"), 1, 16, 32)

    def test_upload_over_limit_is_not_opened(self):
        with pytest.raises(MediaTooLargeError, match="1,001 bytes, over the limit of 1,000"):
            sample_frames(b"x" * 1001, 1, 16, 32, Limits(video_bytes=1000))

    def test_byte_limit_applies_to_uploads_only(self, tmp_path):
        path = tmp_path / "film.mp4"
        path.write_bytes(TEN_SECONDS)

        assert len(sample_frames(str(path), 1, 16, 32, Limits(video_bytes=1000)).seconds) == 10

    def test_frame_over_limit(self):
        limits = Limits(video_pixels=64 * 48 - 1)

        with pytest.raises(MediaTooLargeError, match="64 × 48 pixels, over the limit of 3,071 pixels a frame"):
            sample_frames(TEN_SECONDS, 1, 16, 32, limits)
        assert len(sample_frames(TEN_SECONDS, 1, 16, 32, Limits(video_pixels=64 * 48)).seconds) == 10

    def test_long_video(self):
        with pytest.raises(MediaTooLargeError, match="lasts 10 s, over the limit of 9 s: cut it"):
            sample_frames(TEN_SECONDS, 1, 16, 32, Limits(video_seconds=9))

    def test_endless_packets(self):
        content = film(numbered(100), container="mpegts")

        with pytest.raises(MediaTooLargeError, match="more than 50 frames would have to be read"):
            sample_frames(content, 1, 16, 32, Limits(video_frames=50))

    @pytest.mark.parametrize(
        "source", ["/nowhere/film.mp4", "file:///nowhere/film.mp4", "http://127.0.0.1:9/a.mp4", "concat:a|b", "x://y"]
    )
    def test_unreadable_path_is_named(self, source):
        with pytest.raises(DataError, match=r"the video '.*' cannot be read .*: fix its path or URI"):
            sample_frames(source, 1, 16, 32)


class TestDamage:
    @pytest.mark.parametrize("kept", [0.95, 0.8, 0.6])
    def test_missing_tail_keeps_earlier_frames(self, kept):
        content = film(noise(100), movflags="faststart")

        frames = sample_frames(content[: int(kept * len(content))], 1, 16, 32)

        assert 0.5 <= len(frames.seconds) / 10 <= kept + 0.1
        assert frames.seconds.tolist() == list(range(len(frames.seconds)))

    @pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
    def test_less_than_half_is_damage_or_shorter(self, container):
        """What has its length in the header is known to be cut; the rest just ends early."""
        options = {"movflags": "faststart"} if container == "mp4" else {}
        content = film(noise(100), container=container, codec="mpeg4" if container == "avi" else "libx264", **options)
        try:
            frames = sample_frames(content[: int(0.4 * len(content))], 1, 16, 32)
        except BrokenMediaError:
            assert container in ("mp4", "matroska")
        else:
            assert container in ("mpegts", "avi") and frames.seconds[-1] <= 4

    def test_missing_index_is_damage(self):
        with pytest.raises(BrokenMediaError, match="damaged or cut short"):
            sample_frames(TEN_SECONDS[: len(TEN_SECONDS) // 2], 1, 16, 32)

    def test_damaged_packets_are_skipped(self):
        content = bytearray(film(noise(100), movflags="faststart", gop=10))
        begin = content.index(b"mdat") + 4
        offset = begin + (len(content) - begin) // 2
        content[offset : offset + 4000] = np.random.default_rng(0).bytes(4000)

        frames = sample_frames(bytes(content), 1, 16, 32)

        assert 5 <= len(frames.seconds) <= 10
        assert (np.diff(frames.seconds) > 0).all()

    def test_huge_frame_claim_costs_no_memory(self):
        content = bytearray(film(numbered(20)))
        offset = content.rindex(b"avc1") + 28
        assert content[offset : offset + 4] == struct.pack(">HH", 64, 48)
        content[offset : offset + 4] = struct.pack(">HH", 30_000, 30_000)

        with pytest.raises(MediaTooLargeError, match="30000 × 30000 pixels, over the limit of 9,437,184"):
            sample_frames(bytes(content), 1, 16, 32)

    @pytest.mark.parametrize(("box", "offset", "value"), [(b"stsz", 4, (1, 40_000_000)), (b"trun", 0, (1, 40_000_000))])
    def test_many_frames_claim_costs_no_memory(self, box, offset, value):
        content = bytearray(film(numbered(20), **({} if box == b"stsz" else {"movflags": "frag_keyframe+empty_moov"})))
        offset += content.index(box) + 4
        content[offset : offset + 8] = struct.pack(">II", *value)

        with pytest.raises(MediaTooLargeError, match=r"claims 40,000,\d+ samples, over the limit of 1,000,000"):
            sample_frames(bytes(content), 1, 16, 32)
        assert peak_growth(f"sample_frames(bytes.fromhex({content.hex()!r}), 1, 16, 32)") < 60_000_000

    def test_compressed_header_is_rejected(self):
        content = TEN_SECONDS.replace(b"trak", b"cmov")

        with pytest.raises(MediaTooLargeError, match=r"claims 4,294,967,296 samples"):
            sample_frames(content, 1, 16, 32)

    def test_samples_of_all_tracks_are_counted(self):
        whole = film(numbered(20), sound=True)
        fragmented = film(numbered(50), movflags="frag_keyframe+empty_moov", gop=10)

        assert 20 < claimed_samples(io.BytesIO(whole)) < 60
        assert claimed_samples(io.BytesIO(fragmented)) == 50
        assert claimed_samples(io.BytesIO(b"\0\0\0\1moov" + bytes(8))) == 0

    def test_frames_above_header_size_are_skipped(self):
        content = film(numbered(20), container="avi", codec="mjpeg")
        size = struct.pack(">HH", 48, 64)
        start = content.index(b"\xff\xc0")
        assert content[start + 5 : start + 9] == size
        bomb = content.replace(content[start : start + 5] + size, content[start : start + 5] + b"\x3f\xff\x3f\xff")

        assert peak_growth(f"sample_frames(bytes.fromhex({bomb.hex()!r}), 1, 16, 32)") < 60_000_000

    @settings(deadline=None, max_examples=250, derandomize=True)
    @given(
        name=st.sampled_from(["mp4", "fragmented mp4", "mkv", "webm", "avi", "avi of pictures", "mpeg-ts"]),
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
        cut=st.floats(0.3, 1),
    )
    def test_mutated_video_raises_data_error(self, name, changes, cut):
        mutant = bytearray(small(name))
        for offset, value in changes:
            mutant[int(offset * len(mutant))] = value
        try:
            frames = sample_frames(bytes(mutant[: int(cut * len(mutant))]), 2, 8, 32, Limits(video_pixels=1_000_000))
        except DataError:
            return
        assert frames.pixels.shape[1:] == (3, 32, 32)
        assert 1 <= len(frames.pixels) == len(frames.seconds) <= 8

    @settings(deadline=None, max_examples=150, derandomize=True)
    @given(
        start=st.sampled_from([b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\1\0\0AVI LIST", b"G"]),
        rest=st.binary(max_size=300),
    )
    def test_signature_with_noise_raises_data_error(self, start, rest):
        with pytest.raises(DataError):
            sample_frames(start + rest, 1, 16, 32)

    def test_decoder_writes_nothing_to_terminal(self, capfd):
        content = film(noise(50), movflags="faststart")
        capfd.readouterr()  # encoders may speak
        for kept in (0.3, 0.7, 0.9):
            try:
                sample_frames(content[: int(kept * len(content))], 1, 16, 32)
            except MediaError:
                continue

        assert capfd.readouterr() == ("", "")


class TestMemory:
    @pytest.mark.slow
    def test_ten_minutes_of_1080p_need_500_mb(self, tmp_path):
        """The file itself has about 160 MB, its frames decoded 47 GB."""
        path = tmp_path / "long.mp4"
        write_long(str(path), 600, 1920, 1080)
        assert path.stat().st_size > 100_000_000

        assert peak_growth(f"assert len(sample_frames({str(path)!r}, 1, 16, 224).seconds) == 16") < 200_000_000


SMALL: dict[str, bytes] = {}


def small(name: str) -> bytes:
    if name not in SMALL:
        container, codec = KINDS[name]
        fragments = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("fragmented") else {}
        SMALL[name] = film(numbered(30), container=container, codec=codec, **fragments)
    return SMALL[name]


def noise(count: int) -> list[np.ndarray]:
    """Frames of which every one takes many bytes, so that an offset in the file is an offset in time."""
    return list(np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8))


def peak_growth(statement: str) -> int:
    """Bytes by which a statement raises the peak memory of a fresh process; a `DataError` is allowed."""
    program = (
        "import resource\n"
        "from galleria.errors import DataError\n"
        "from galleria.media.videos import sample_frames\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "idle = peak()\n"
        f"try:\n    {statement}\nexcept DataError as error:\n    pass\n"
        "print((peak() - idle) * 1024)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=True, cwd=root / "platform"
    )
    return int(done.stdout)
