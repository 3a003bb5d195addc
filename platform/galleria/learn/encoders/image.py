"""Pictures to features: any backbone of timm, pooled or stage by stage."""

import difflib
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from pydantic import Field
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.encoders.weights import load_weights
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
