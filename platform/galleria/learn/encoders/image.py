"""Pictures to features: any backbone of timm, pooled or stage by stage."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.encoders.weights import load_weights


class Backbone(nn.Module):
    """A network of timm with its normalisation, weights and frozen parts. Final classes define the outputs."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ImageEncoderConfig, size: int, **options: Any) -> None:
        super().__init__()
        if not timm.is_model(config.architecture):
            known = difflib.get_close_matches(config.architecture, timm.list_models(), n=5)
            raise ConfigurationError(
                f"timm has no model {config.architecture!r}" + (f": did you mean {', '.join(known)}?" if known else "")
            )
        known = timm.get_pretrained_cfg(config.architecture)
        if known is not None and known.fixed_input_size:  # vision transformers have a position for each patch
            options["img_size"] = size
        self.statistics = config.statistics
        self.network = timm.create_model(config.architecture, pretrained=config.weights == "timm", **options)
        if config.weights not in ("none", "timm"):
            load_weights(self.network, str(Path(config.weights).expanduser()), part=bool(options.get("features_only")))
        for name in config.frozen:
            try:
                self.network.get_submodule(name).requires_grad_(False)
            except AttributeError as error:
                parts = ", ".join(child for child, _ in self.network.named_children())
                raise ConfigurationError(
                    f"{config.architecture} has no module {name!r} to freeze: its parts are {parts}"
                ) from error
        data = timm.data.resolve_model_data_config(self.network)
        self.network.to(memory_format=torch.channels_last)  # with inputs alike: convolutions on CPUs are much faster
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(data["std"]).view(1, 3, 1, 1) * 255, persistent=False)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 RGB `[B, 3, H, W]` with the mean and deviation that the network was trained with."""
        normal = (pixels.to(self.mean.dtype) - self.mean) / self.deviation
        return normal.contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; BatchNorm layers stay in evaluation mode where their statistics or weights are frozen."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                frozen = [not parameter.requires_grad for parameter in module.parameters()]
                if self.statistics == "frozen" or (frozen and all(frozen)):
                    module.eval()
        return self


class ImageEncoder(Backbone):
    """uint8 RGB `[B, 3, size, size]` → pooled features `[B, width]`. Normalisation is inside.

    Only vision transformers hold on to the size; for them the positions of the weights are interpolated.
    """

    def __init__(self, config: ImageEncoderConfig, size: int = 224) -> None:
        super().__init__(config, size, num_classes=0)
        self.width: int = self.network.head_hidden_size  # of what forward returns; num_features may lie before it

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features."""
        return self.network(self.normalised(pixels))  # type: ignore[no-any-return]


class StageEncoder(Backbone):
    """uint8 RGB `[B, 3, H, W]` → feature maps of the last `count` stages, finest first.

    Attributes:
        widths: channels of each map.
        strides: input pixels to one pixel of each map.
    """

    def __init__(self, config: ImageEncoderConfig, count: int, size: int = 224) -> None:
        try:
            super().__init__(config, size, features_only=True, out_indices=tuple(range(-count, 0)))
        except (AssertionError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"{config.architecture} does not have {count} stages: use fewer, or another backbone ({error})"
            ) from error
        self.widths: list[int] = self.network.feature_info.channels()
        self.strides: list[int] = self.network.feature_info.reduction()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return maps `[B, widths[i], H / strides[i], W / strides[i]]` of every stage i."""
        return self.network(self.normalised(pixels))  # type: ignore[no-any-return]
