"""Texts to pooled features: BERT- and GPT-style encoders of transformers, and their tokenizer."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import TextEncoderConfig
from galleria.learn.encoders.tokens import describe_network


class TextEncoder(nn.Module):
    """Token ids `[B, T]` and mask `[B, T]` → pooled features `[B, width]`."""

    def __init__(self, config: TextEncoderConfig) -> None:
        from transformers import AutoModel

        super().__init__()
        self.pooling = config.pooling
        description = describe_network(config)
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


def _with_lora(network: Any, rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigurationError("lora_rank needs the package peft: pip install 'galleria[lora]'") from error
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in network.modules())  # GPT-2's linear layers
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed)
    return peft.get_peft_model(network, config)
