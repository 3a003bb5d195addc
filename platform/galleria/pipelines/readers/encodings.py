"""Recognises the encoding of a text file, and reads any as UTF-8."""

import codecs
from collections.abc import Iterator

import pyarrow.fs
from charset_normalizer import from_bytes

from galleria.errors import ConfigurationError, DataError

CHUNK_BYTES = 8 << 20
SAMPLE_BYTES = 64 << 10
"""Lines that are not UTF-8, by which their encoding is recognised."""
WESTERN = "cp1252"
CANDIDATES = (
    *(f"cp125{number}" for number in range(9)),
    *("cp932", "gb18030", "big5", "euc_kr", "euc_jp", "koi8_r", "cp437", "cp850", "cp866", "mac_roman"),
)
"""What spreadsheets and shops save; among more, a few lines are too short to tell rare encodings apart."""
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def recognise_encoding(files: pyarrow.fs.FileSystem, inside: str) -> tuple[str, bool]:
    """Return the encoding of a whole text file, and whether it is a guess.

    A byte-order mark decides. Otherwise it is UTF-8 where at least half of the lines beyond ASCII decode as such, and
    where not, charset-normalizer chooses by these lines.
    """
    with files.open_input_stream(inside) as stream:
        head = bytes(stream.read(4096))
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return name, False
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) > 1 and head[offset::2].count(0) * 2 > len(head[offset::2]):
            return name, False  # ASCII in UTF-16: every other byte is zero
    good, bad, sample = _undecodable_lines(files, inside)
    if good >= bad:
        return "utf-8", False
    return _guess(sample), True


def utf8_chunks(files: pyarrow.fs.FileSystem, inside: str, encoding: str) -> Iterator[bytes]:
    """Yield a file's text as UTF-8 without a byte-order mark. Bytes that do not decode become invalid UTF-8.

    Raises:
        ConfigurationError: there is no such encoding.
        DataError: the text cannot be decoded beyond some point.
    """
    try:
        is_utf8 = codecs.lookup(encoding).name == "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    except LookupError as error:
        raise ConfigurationError(f"{encoding!r} is not a known encoding: use utf-8, cp1252, utf-16 …") from error
    with files.open_input_stream(inside) as stream:
        while chunk := bytes(stream.read(CHUNK_BYTES)):
            yield chunk if is_utf8 else _decode(decoder, chunk, inside, encoding)
        if not is_utf8:
            yield _decode(decoder, b"", inside, encoding, final=True)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, inside: str, encoding: str, final: bool = False) -> bytes:
    try:
        return decoder.decode(chunk, final).encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise DataError(
            f"{inside} is not {encoding} text ({error}): give its --encoding, or save it as UTF-8"
        ) from error


def _undecodable_lines(files: pyarrow.fs.FileSystem, inside: str) -> tuple[int, int, bytes]:
    """Return the number of lines beyond ASCII that are UTF-8, that of lines that are not, and a sample of these."""
    good = bad = 0
    sample = b""
    for lines in _whole_lines(files, inside):
        if lines.isascii():
            continue
        is_valid = _decodes(lines)
        for line in lines.split(b"\n"):
            if line.isascii():
                continue
            if is_valid or _decodes(line):
                good += 1
                continue
            bad += 1
            if len(sample) < SAMPLE_BYTES:
                sample += line[:SAMPLE_BYTES] + b"\n"
    return good, bad, sample


def _whole_lines(files: pyarrow.fs.FileSystem, inside: str) -> Iterator[bytes]:
    """Yield a file in chunks that end where a line does."""
    rest = b""
    with files.open_input_stream(inside) as stream:
        while chunk := bytes(stream.read(CHUNK_BYTES)):
            end = chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest = chunk[end:]
            else:
                rest += chunk
    yield rest


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess(sample: bytes) -> str:
    """Return the encoding of text that is not UTF-8: Windows-1252 where it is as likely as any other."""
    matches = list(from_bytes(sample, cp_isolation=list(CANDIDATES)))
    if not matches:
        return WESTERN
    best = matches[0]
    for match in matches:
        if WESTERN in match.could_be_from_charset and (match.chaos, -match.coherence) <= (best.chaos, -best.coherence):
            return WESTERN
    return best.encoding
