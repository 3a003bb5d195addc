"""Encoded bytes to pixels: the only place that decodes pictures."""

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from galleria.errors import BrokenMediaError, MediaTooLargeError, UnsupportedMediaError
from galleria.media.bit_depth import eight_bits, scale_transparency
from galleria.media.colour import to_srgb
from galleria.media.decoder import current_decoder
from galleria.media.header_file import HeaderFile
from galleria.media.heif import heif_kind, heif_size, register_heif
from galleria.media.limits import LIMITS, Limits
from galleria.media.png import without_large_metadata
from galleria.media.quiet import quiet_pillow
from galleria.media.webp import is_webp, webp_size

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
"""The formats that are read, decided by content. Vector and document formats run programs and are not read.

HEIF (HEIC) is one more, with the extra "heic"."""

JPEG = b"\xff\xd8\xff"
SIGNATURES = (JPEG, b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
"""First bytes of files in `FORMATS`: a file that starts so and cannot be read is damaged, not of another kind."""

REDUCING_GAP = 3
"""How many times larger than its final size a picture stays until the last resizing, so that the result is the same."""


MAX_REDUCED_TIMES = 4
"""How many times more pixels than others a JPEG may have where it is decoded at a reduced scale: 200 million, as the
largest sensors of phones have."""

ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
"""How Python prints an object without a name."""


def decode_image(data: bytes, limits: Limits = LIMITS, *, fit: int | None = None) -> Image.Image:
    """Decode one picture to RGB in sRGB: upright (EXIF), first frame, transparency laid on white.

    With `fit`, for a picture that goes into a square of that many pixels (`fit_square`): a JPEG which is far larger
    is decoded at a half, a quarter or an eighth of its size, in a fraction of the time and memory.

    Raises:
        UnsupportedMediaError: the bytes are not one of `FORMATS`.
        MediaTooLargeError: more bytes or pixels than `limits` allow; pixels are checked before decoding.
        BrokenMediaError: empty, truncated or damaged bytes.
    """
    _check_bytes(data, limits)
    decoder = current_decoder.get()
    if decoder is not None:
        return decoder.image(data, limits, fit)
    with quiet_pillow:
        image = _open(data, limits)
        if fit is not None:
            _reduce(image, fit)
        _check_pixels(image.size, limits)
        try:
            scale_transparency(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _on_white(to_srgb(eight_bits(image)))
        except MemoryError as error:
            raise MediaTooLargeError("the picture needs more memory than it may use: shrink it first") from error
        except Exception as error:
            raise _broken(error) from error


def media_type(data: bytes, limits: Limits = LIMITS) -> str:
    """Return the media type of a picture ("image/png"), from its header alone: cheap, and rejects most bad files.

    Runs no decoder in C, so it may read the pictures of strangers in any process.

    Raises:
        UnsupportedMediaError, MediaTooLargeError, BrokenMediaError: as `decode_image`, where the header shows it.
    """
    _check_bytes(data, limits)
    # Pillow gives these to libwebp, libavif and libheif already here.
    if is_webp(data):
        _check_pixels(webp_size(data), limits)
        return "image/webp"
    if kind := heif_kind(data):
        _check_pixels(heif_size(data), limits)
        register_heif(kind)
        return "image/avif" if kind == "AVIF" else "image/heic"
    name = _open(data, limits).format or ""
    # Phones write JPEG files with a second picture behind the first, which browsers know as JPEG only.
    return "image/jpeg" if name == "MPO" else Image.MIME[name]


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Fit an RGB picture into `size` × `size`, on white, so that nothing is cut off or stretched."""
    return image if image.size == (size, size) else Image.fromarray(_fitted(image, size))


def to_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Convert an RGB picture to uint8 `[3, size, size]`, fitted into a square by `fit_square`."""
    square = np.asarray(image) if image.size == (size, size) else _fitted(image, size)
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def _fitted(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Fit an RGB picture into uint8 `[size, size, 3]`, on white."""
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    fitted = _resized(image, width, height)
    if width == height:
        return fitted
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = fitted
    return square


def _resized(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """Resize an RGB picture to uint8 `[height, width, 3]`, bicubic with antialiasing.

    With AVX2, PyTorch does this several times faster than Pillow, and differs from it by rounding; without, it is
    slower. Very much larger pictures are left to Pillow too, which averages blocks of pixels first and needs no second
    copy of them.
    """
    import pyarrow as pa  # here: reading headers and decoding do not need them
    import torch

    large = max(image.size) >= 2 * REDUCING_GAP * max(width, height)
    if large or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP))
    try:  # a view of Pillow's four bytes a pixel: np.asarray would copy them three times
        pixels = torch.utils.dlpack.from_dlpack(pa.array(image).flatten()).view(image.height, image.width, 4)
    except ValueError:  # so large that Pillow stores it in several blocks
        pixels = torch.from_numpy(np.array(image))
    channels = pixels.permute(2, 0, 1)[None]
    fitted = torch.nn.functional.interpolate(channels, (height, width), mode="bicubic", antialias=True)
    return fitted[0, :3].permute(1, 2, 0).numpy()


def _check_bytes(data: bytes, limits: Limits) -> None:
    if not data:
        raise BrokenMediaError("the picture is empty (0 bytes): send the bytes of a picture file")
    if len(data) > limits.image_bytes:
        raise MediaTooLargeError(
            f"the picture has {len(data):,} bytes, over the limit of {limits.image_bytes:,}: shrink it first"
        )


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Open a picture, and check its size: that of a JPEG as if it were decoded at a reduced scale."""
    kind = heif_kind(data)
    if kind:
        register_heif(kind)
        _check_pixels(heif_size(data), limits)
    file = HeaderFile(without_large_metadata(data))
    with quiet_pillow:
        try:
            if data.startswith(JPEG):  # without the limit of Image.open, which is one of the process
                image: Image.Image = JpegImagePlugin.jpeg_factory(file)
            else:
                image = Image.open(file, formats=(*FORMATS, kind) if kind == "HEIF" else FORMATS)
        except Image.DecompressionBombError as error:
            raise MediaTooLargeError(f"the picture has too many pixels ({error}): shrink it first") from error
        except UnidentifiedImageError as error:
            if _has_signature(data):
                raise _broken("no picture can be found in it") from error
            raise UnsupportedMediaError(
                f"the content is not a picture of a known format: send one of {', '.join(FORMATS)}"
            ) from error
        except Exception as error:  # Pillow's readers raise almost anything on damaged headers
            raise _broken(error) from error
    file.opened()
    _check_pixels(image.size, limits, MAX_REDUCED_TIMES if data.startswith(JPEG) else 1)
    return image


def _check_pixels(size: tuple[int, int], limits: Limits, times: int = 1) -> None:
    width, height = size
    if width * height > times * limits.image_pixels:
        raise MediaTooLargeError(
            f"the picture is {width} × {height} pixels, over the limit of {limits.image_pixels:,} pixels: shrink it "
            "first"
        )


def _reduce(image: Image.Image, fit: int) -> None:
    """Set the scale of the JPEG decoder, the only one that has one."""
    times = max(image.size) // (fit * REDUCING_GAP)
    if times > 1:
        width, height = (max(1, side // times) for side in image.size)
        image.draft(None, (width, height))


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        background.alpha_composite(image)
        image = background
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_signature(data: bytes) -> bool:
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"[: len(data[8:12])]
    if heif_kind(data):
        return True
    return any(data[: len(signature)] == signature[: len(data)] for signature in SIGNATURES)


def _broken(reason: Exception | str) -> BrokenMediaError:
    shown = ADDRESS.sub("the file", str(reason))
    return BrokenMediaError(f"the picture is damaged or cut short ({shown}): send the whole file again")
