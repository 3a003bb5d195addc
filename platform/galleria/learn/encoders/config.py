"""Which encoder of pictures or texts a network has. Imports no torch: a gateway starts without it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from galleria.errors import ConfigurationError
from galleria.learn.recipe import Frozen


class ImageEncoderConfig(Frozen):
    """Which backbone, and where its weights come from."""

    architecture: str = Field("resnet50", description="a timm name: resnet50, seresnet50, efficientnet_b3, …")
    weights: str = Field("none", description="'none', 'timm' (where a hub can be reached), or a local file")
    statistics: Literal["frozen", "trained"] = Field(
        "trained", description="BatchNorm running statistics; 'frozen' keeps pretrained ones"
    )
    frozen: tuple[str, ...] = Field((), description="modules that are not trained, by name")


def partly_frozen_lite0(weights: str, blocks: int) -> ImageEncoderConfig:
    """Return EfficientNet-Lite0 with pretrained statistics, trained from block `blocks` on.

    Args:
        weights: file of its weights under timm's names.
        blocks: how many of its seven blocks are not trained; nor is the stem before them.
    """
    return ImageEncoderConfig(
        architecture="tf_efficientnet_lite0",
        weights=weights,
        statistics="frozen",
        frozen=("conv_stem", "bn1", *(f"blocks.{block}" for block in range(blocks))),
    )


TOKENIZER = "tokenizer.json"
"""Name of the tokenizer among a context's files."""


Pooling = Literal["mean", "first", "last"]


SAVED_POOLING: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
"""Names in sentence-transformers' files."""


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
