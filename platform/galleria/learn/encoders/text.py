"""Texts to pooled features: BERT- and GPT-style encoders of transformers, and their tokenizer."""

import copy
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.recipe import Frozen

TOKENIZER = "tokenizer.json"
"""Name of the tokenizer among a context's files."""

Pooling = Literal["mean", "first", "last"]

SAVED_POOLING: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
"""Names in sentence-transformers' files."""

BYTE_TOKENS = 256
"""Tokens of a byte-level vocabulary before any merge."""


class TextEncoderConfig(Frozen):
    """Which text encoder, and where its weights come from.

    `architecture` is a transformers configuration: `model_type` ("bert", "gpt2", …) and its options.
    """

    architecture: Mapping[str, Any]
    weights: str = Field("none", description="'none', a local transformers folder, or a hub name where one is reached")
    pooling: Pooling = Field(
        "mean", description="of the tokens' features: BERT mean or first, as it was trained, GPT last"
    )
    tokens: int = Field(32, gt=0, description="longest text, in tokens; more are cut off")
    lora_rank: int = Field(0, ge=0, description="0 trains all weights; otherwise only low-rank additions (peft)")


def pretrained_text_encoder(folder: Path | str, tokens: int = 32, lora_rank: int = 0) -> TextEncoderConfig:
    """Return the configuration of a transformers model in a local folder (config.json, tokenizer.json, weights).

    Its pooling is what sentence-transformers has saved with it (`1_Pooling/config.json`), or else the usual one.

    Raises:
        ConfigurationError: the folder lacks one of them.
    """
    folder = Path(folder)
    try:
        architecture = json.loads((folder / "config.json").read_bytes())
        model_type = str(architecture["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder} holds no transformers model: {error!r}") from error
    if not (folder / TOKENIZER).is_file():
        raise ConfigurationError(f"{folder} has no {TOKENIZER}: save the model's fast tokenizer there")
    pooling = _saved_pooling(folder) or ("last" if model_type.startswith("gpt") else "mean")
    return TextEncoderConfig(
        architecture=architecture, weights=str(folder), pooling=pooling, tokens=tokens, lora_rank=lora_rank
    )


def _saved_pooling(folder: Path) -> Pooling | None:
    """Return the pooling that sentence-transformers has saved with a model, or None where it has not."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    saved = json.loads(file.read_bytes())
    for name, pooling in SAVED_POOLING.items():
        if saved.get(name) is True:
            return pooling
    raise ConfigurationError(f"{file} sets none of {', '.join(SAVED_POOLING)}: no other pooling is supported")


class TextEncoder(nn.Module):
    """Token ids `[B, T]` and mask `[B, T]` → pooled features `[B, width]`."""

    def __init__(self, config: TextEncoderConfig) -> None:
        from transformers import AutoModel

        super().__init__()
        self.pooling = config.pooling
        description = _description(config)
        try:
            if config.weights == "none":
                network = AutoModel.from_config(description)
            else:
                network = AutoModel.from_pretrained(config.weights, dtype=torch.float32)
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(f"the text encoder cannot be built: {error}") from error
        if config.tokens > description.max_position_embeddings:
            raise ConfigurationError(
                f"the text encoder has {description.max_position_embeddings} positions, not {config.tokens}: "
                "lower 'tokens'"
            )
        if getattr(network, "pooler", None) is not None:
            network.pooler = None  # it would never receive a gradient: we pool ourselves
        if config.lora_rank:
            network = _with_lora(network, config.lora_rank)
        self.network: Any = network
        self.width: int = description.hidden_size

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the token features, or the first or last token's."""
        hidden_BTC = self.network(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.pooling == "first":
            return hidden_BTC[:, 0]  # type: ignore[no-any-return]
        if self.pooling == "last":
            last = (mask.sum(1) - 1).clamp(min=0)
            return hidden_BTC[torch.arange(len(last), device=last.device), last]  # type: ignore[no-any-return]
        weight = mask[..., None].to(hidden_BTC.dtype)
        return (hidden_BTC * weight).sum(1) / weight.sum(1).clamp(min=1)  # type: ignore[no-any-return]

    def merged(self) -> nn.Module:
        """Return a copy of the network with its low-rank additions folded into the weights."""
        if not hasattr(self.network, "merge_and_unload"):
            return cast(nn.Module, self.network)
        return cast(nn.Module, copy.deepcopy(self.network).merge_and_unload())  # it works in place


def tokenizer_bytes(config: TextEncoderConfig, texts: Iterable[str]) -> bytes:
    """Return the tokenizer of pretrained weights, or for a fresh network train a byte-level BPE on `texts`."""
    if config.weights == "none":
        learner = tokenizers.ByteLevelBPETokenizer(lowercase=True)
        size = int(_description(config).vocab_size)
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


def _description(config: TextEncoderConfig) -> Any:
    from transformers import AutoConfig

    options = dict(config.architecture)
    try:
        return AutoConfig.for_model(options.pop("model_type", None), **options)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the text encoder cannot be built: {error}") from error


def _with_lora(network: Any, rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigurationError("lora_rank needs the package peft: pip install 'galleria[lora]'") from error
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in network.modules())  # GPT-2's linear layers
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed)
    return peft.get_peft_model(network, config)
