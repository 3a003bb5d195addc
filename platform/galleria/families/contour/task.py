"""The contour network of CN113298092B, stage 1: cascaded layers, brought to one size, fused, reduced to one channel."""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from galleria.families.contour.config import CONTOUR, NONE, ContourConfig
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import mean_over_workers

CHANNELS = (16, 32, 64, 128)
"""Of the cascaded layers, at 1, ½, ¼ and ⅛ of the input's size."""

BANK = 16
"""Channels of every level once all have one size."""


class Level(nn.Module):
    """A 3 × 3 convolution, which may halve the size, and a residual module with two more."""

    def __init__(self, inputs: int, outputs: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.convolution = Conv2dNormActivation(inputs, outputs, 3, stride)
        self.residual = BasicBlock(outputs, outputs, attn_layer="se" if squeeze else None)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute `[B, inputs, H, W]` → `[B, outputs, H / stride, W / stride]`."""
        return self.residual(self.convolution(maps))  # type: ignore[no-any-return]


class Contour(Task):
    """Pictures → bank of features of four levels, and while it trains the contour that they add up to.

    The bank, every level at half the input's size BEFORE fusion, is the patent's second contour features: what
    `garment_gender` reads. Its first contour features are the fused maps, which only train.
    """

    config: ContourConfig

    def __init__(self, config: ContourConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [3, *CHANNELS]
        if config.cascade == "dense":
            inputs = list(itertools.accumulate(inputs))
        self.levels = nn.ModuleList(
            Level(inputs[level], width, 1 if level == 0 else 2, config.squeeze) for level, width in enumerate(CHANNELS)
        )
        self.unify = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, BANK, 1), _resize(config.unification, 2.0 ** (level - 1)))
            for level, width in enumerate(CHANNELS)
        )
        width = BANK * len(CHANNELS)
        self.fuse = Conv2dNormActivation(width, width, 3)
        self.single = nn.Conv2d(width, 1, 1) if config.head else None
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Outputs:
        """Compute the loss of `pixels` against `contour`, `[B, S / 2, S / 2]` of `NONE`, `CONTOUR` and `UNCERTAIN`."""
        loss = balanced_cross_entropy(self.contours(self.bank(batch["pixels"])), batch["contour"])
        return {"loss": mean_over_workers(loss, len(batch["contour"]))}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return `bank` `[B, 4, 16, S / 2, S / 2]`, with the head also `contour`, probabilities `[B, S / 2, S / 2]`.

        With `config.fused` also `fused` `[B, 64, S / 2, S / 2]`, the maps that the head reads.
        """
        bank = self.bank(batch["pixels"])
        outputs = {"bank": bank}
        if self.config.fused:
            outputs["fused"] = self.fuse(bank.flatten(1, 2))
        if self.single is not None:
            outputs["contour"] = self.contours(bank).sigmoid()
        return outputs

    def cascade(self, pixels: Tensor) -> list[Tensor]:
        """Compute uint8 RGB `[B, 3, S, S]` → the maps of every level, at 1, ½, ¼ and ⅛ of the size.

        In a dense cascade a level reads the maps of all levels before it, and the picture, averaged to the size of the
        last (after Huang et al., "Densely Connected Convolutional Networks", 2017).
        """
        maps = [(pixels.to(torch.float32) / 127.5 - 1).contiguous(memory_format=torch.channels_last)]
        for level in self.levels:
            inputs = maps[-1]
            if self.config.cascade == "dense":
                size = (inputs.shape[-2], inputs.shape[-1])
                inputs = torch.cat([*(F.adaptive_avg_pool2d(earlier, size) for earlier in maps[:-1]), inputs], 1)
            maps.append(level(inputs))
        return maps[1:]

    def bank(self, pixels: Tensor) -> Tensor:
        """Compute uint8 RGB `[B, 3, S, S]` → `[B, 4, 16, S / 2, S / 2]`: every level with 16 channels and one size."""
        maps = self.cascade(pixels)
        return torch.stack([unify(level) for unify, level in zip(self.unify, maps, strict=True)], 1)

    def contours(self, bank: Tensor) -> Tensor:
        """Compute logits `[B, S / 2, S / 2]` of a bank."""
        assert self.single is not None, "an exported network has no single-channel layer"
        logits: Tensor = self.single(self.fuse(bank.flatten(1, 2)))
        return logits.squeeze(1)

    def exported(self) -> "Contour":
        """Return all but the single-channel layer, which the patent discards."""
        return self.rebuilt(self.config.model_copy(update={"head": False}))

    def signature(self) -> Signature:
        """Read pictures."""
        return Signature(inputs=("image",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "levels" (the cascade) and "heads" (all that comes after it)."""
        return parameters_by_module(self, {"levels": "levels"}, "heads")


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Compute class-balanced cross-entropy (Liu et al., "Richer Convolutional Features", 2017).

    A contour pixel weighs |Y₋| / |Y|, another one 1.1 · |Y₊| / |Y|, with Y the certain pixels of a picture; the
    mean over those, then over pictures. Uncertain pixels are ignored.

    Args:
        logits: `[B, H, W]`.
        target: `[B, H, W]` of `NONE`, `CONTOUR` and `UNCERTAIN`.
    """
    contour, none = (target == CONTOUR).to(logits.dtype), (target == NONE).to(logits.dtype)
    positives, negatives = contour.sum((1, 2), keepdim=True), none.sum((1, 2), keepdim=True)
    certain = (positives + negatives).clamp(min=1)
    weights = (contour * negatives + 1.1 * none * positives) / certain
    terms = F.binary_cross_entropy_with_logits(logits, contour, weights, reduction="none")
    return (terms / certain).sum((1, 2)).mean()


def _resize(kind: str, factor: float) -> nn.Module:
    """Return the layer that resizes a level to half the input's size, `factor` times its own."""
    if kind != "deconvolution":
        return nn.Upsample(scale_factor=factor, mode=kind)
    if factor < 1:
        return nn.Conv2d(BANK, BANK, 2, stride=2)
    if factor == 1:
        return nn.Identity()
    stride = int(factor)
    return nn.ConvTranspose2d(BANK, BANK, 2 * stride, stride=stride, padding=stride // 2)
