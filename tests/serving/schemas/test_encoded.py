import base64
import tracemalloc

import numpy as np
import pytest

from galleria.serving.schemas.encoded import BASE64_SLICE, EncodedFile, decode_base64
from galleria.serving.schemas.problems import ProblemError

NOISE = np.random.default_rng(0).bytes(BASE64_SLICE)


def variants(text: str) -> list[str | EncodedFile]:
    """A text, and the same in a body."""
    body = f'{{"image": "{text}"}}'.encode()
    return [text, EncodedFile(body, 11, len(body) - 2)]


@pytest.mark.parametrize("size", [0, 1, 2, 3, BASE64_SLICE // 4 * 3, BASE64_SLICE // 4 * 3 + 1, BASE64_SLICE])
def test_slices_equal_one_call(size):
    for text in variants(base64.b64encode(NOISE[:size]).decode()):
        assert decode_base64(text) == NOISE[:size]


@pytest.mark.parametrize(
    "text",
    ["A", "AAA", "AA=A", "AA==AAAA", "A\nAA=", "ä", "\ud800", "AA-_", "A" * (BASE64_SLICE - 1) + "=" + "AAAA",
     "A" * (BASE64_SLICE - 2) + "==" + "A" * 4, "A" * BASE64_SLICE + "?"],
)  # fmt: skip
def test_other_text_is_rejected(text):
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)
    if text.isprintable():
        with pytest.raises(ValueError, match=r"."):
            decode_base64(variants(text)[1])


def test_data_uri_is_decoded_from_its_comma():
    for head in ("data:,", "data:image/png;base64,"):
        assert decode_base64(variants(head + "aGk=")[1]) == b"hi"
    with pytest.raises(ValueError, match="without a comma"):
        decode_base64(variants("data:aGk=")[1])


def test_file_is_decoded_without_copies():
    """Each of them would hold the interpreter lock, by which nothing else is answered."""
    content = NOISE * 30
    [_, file] = variants(base64.b64encode(content).decode())
    tracemalloc.start()
    try:
        assert decode_base64(file) == content
        assert tracemalloc.get_traced_memory()[1] < 1.3 * len(content)
    finally:
        tracemalloc.stop()


def test_text_that_is_not_utf_8_is_malformed():
    with pytest.raises(ProblemError, match="a text is not UTF-8") as error:
        EncodedFile(b'"\xff"', 1, 2).text()
    assert error.value.status == 400
