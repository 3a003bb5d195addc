"""Texts to tokens. Imports no torch: a gateway starts without it."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import TOKENIZER, TextEncoderConfig

BYTE_TOKENS = 256
"""Tokens of a byte-level vocabulary before any merge."""


def tokenizer_bytes(config: TextEncoderConfig, texts: Iterable[str]) -> bytes:
    """Return the tokenizer of pretrained weights, or for a fresh network train a byte-level BPE on `texts`."""
    if config.weights == "none":
        learner = tokenizers.ByteLevelBPETokenizer(lowercase=True)
        size = int(describe_network(config).vocab_size)
        if size <= BYTE_TOKENS:
            raise ConfigurationError(f"vocab_size={size} does not hold the {BYTE_TOKENS} bytes and padding: use more")
        learner.train_from_iterator(
            texts, vocab_size=size, min_frequency=1, special_tokens=["<pad>"], show_progress=False
        )
        return str(learner._tokenizer.to_str()).encode()
    if Path(config.weights).is_dir():
        return (Path(config.weights) / TOKENIZER).read_bytes()
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(config.weights).backend_tokenizer.to_str()).encode()


def tokenize(texts: Sequence[str], tokenizer: bytes, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Convert texts to token ids and mask, both `[len(texts), length]`, truncated and padded on the right."""
    ids = np.zeros((len(texts), length), np.int64)
    mask = np.zeros((len(texts), length), np.int64)
    for row, encoding in enumerate(_tokenizer(tokenizer, length).encode_batch(list(texts))):
        count = len(encoding.ids)
        ids[row, :count] = encoding.ids
        mask[row, :count] = 1
    return ids, mask


def has_known_token(text: str, tokenizer: bytes, length: int) -> bool:
    """Return whether a text, as far as it is read, has a token that its tokenizer knows.

    What a tokenizer does not know becomes its unknown token: all texts without a known one have the same vector. A
    vocabulary of bytes, such as GPT's and that of a network trained from scratch, has no unknown token.
    """
    encoding = _tokenizer(tokenizer, length).encode(text)
    own = [number for number, is_added in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not is_added]
    return any(number != _unknown_id(tokenizer) for number in own)


@functools.lru_cache(maxsize=8)
def _unknown_id(content: bytes) -> int | None:
    """Return the id of a tokenizer's unknown token, or None where it has none."""
    model: dict[str, Any] = json.loads(content)["model"]
    if "unk_id" in model:  # Unigram
        number: int | None = model["unk_id"]
    else:
        number = tokenizers.Tokenizer.from_buffer(content).token_to_id(model.get("unk_token") or "")
    return number


@functools.lru_cache(maxsize=8)
def _tokenizer(content: bytes, length: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    return tokenizer


def describe_network(config: TextEncoderConfig) -> Any:
    """Return the configuration of transformers for an encoder.

    Raises:
        ConfigurationError: transformers does not know it.
    """
    from transformers import AutoConfig

    options = dict(config.architecture)
    try:
        return AutoConfig.for_model(options.pop("model_type", None), **options)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the text encoder cannot be built: {error}") from error
