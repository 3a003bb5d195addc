"""The gender networks of CN113298092B, stage 2: a backbone, joined by the features of a frozen contour network."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from galleria.families.garment_gender.colour import change_colours
from galleria.families.garment_gender.config import TARGETS, GarmentGenderConfig
from galleria.families.garment_gender.contours import contour_network
from galleria.learn.encoders.image import StageEncoder
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import mean_over_workers

BANK = 64
"""Channels of the contour features: four levels of 16."""

WIDTH = 256
"""Channels of the second gender network."""


class GarmentGender(Task):
    """Pictures → whom the garment is made for.

    The backbone's last map and the contour bank, pooled to its grid, go through two 3 × 3 convolutions, are
    averaged over the grid and classified. The contour network neither trains nor counts batch statistics, unless
    `contour` is "end_to_end".
    """

    config: GarmentGenderConfig

    def __init__(self, config: GarmentGenderConfig) -> None:
        super().__init__()
        self.config = config
        self.image = StageEncoder(config.image, 1, config.size)
        width = self.image.widths[-1]
        if config.contour == "none":
            self.contour = None
        else:
            self.contour = contour_network(config.source)
            self.reduce = Conv2dNormActivation(BANK, BANK, 3, 2)
            self.contour.requires_grad_(config.contour == "end_to_end")
            width += BANK
        if config.head == "convolutions":
            self.join: nn.Module = nn.Sequential(
                Conv2dNormActivation(width, WIDTH, 3), Conv2dNormActivation(WIDTH, WIDTH, 3)
            )
            width = WIDTH
        else:
            self.join = nn.Identity()
        self.classes = nn.Linear(width, len(TARGETS))

    def forward(self, batch: Batch) -> Outputs:
        """Compute the loss of `pixels` against `target`; pictures without a target are ignored."""
        pixels = batch["pixels"]
        logits = self.logits(change_colours(pixels, self.config.colour) if self.training else pixels)
        target = batch["target"]
        if self.config.answer == "one":
            terms = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
        else:
            known = (target >= 0).to(logits.dtype)
            terms = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), known, reduction="none")
        known_targets = (target >= 0).sum()
        return {"loss": mean_over_workers(terms.sum() / known_targets.clamp(min=1), known_targets)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return `probability` `[B, 2]` with sum 1, or `presence` `[B, 2]` where several targets may hold."""
        logits = self.logits(batch["pixels"]) / self.config.temperature
        if self.config.answer == "one":
            return {"probability": logits.softmax(1)}
        return {"presence": logits.sigmoid()}

    def logits(self, pixels: Tensor) -> Tensor:
        """Compute uint8 RGB `[B, 3, S, S]` → logits `[B, 2]`."""
        maps = self.image(pixels)[-1]
        if self.contour is not None:
            maps = torch.cat([maps, self._contour_maps(pixels, maps.shape[-2:])], 1)
        logits: Tensor = self.classes(self.join(maps).mean((2, 3)))
        return logits

    def _contour_maps(self, pixels: Tensor, grid: torch.Size) -> Tensor:
        """Return all levels of the bank, pooled to `[B, 64, *grid]`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.contour == "end_to_end"):
            bank: Tensor = cast(Any, self.contour).bank(pixels)
        return F.adaptive_avg_pool2d(self.reduce(bank.flatten(1, 2)), (grid[0], grid[1]))

    def train(self, mode: bool = True) -> "GarmentGender":
        """Set training mode; a frozen contour network stays in evaluation mode, so that its statistics do not drift."""
        super().train(mode)
        if self.contour is not None and self.config.contour != "end_to_end":
            self.contour.eval()
        return self

    def exported(self) -> "GarmentGender":
        """Return the full network, the contour network included, so that its bundle is no longer needed."""
        config = self.config.model_copy(
            update={
                "image": self.config.image.model_copy(update={"weights": "none"}),
                "source": self.config.source.model_copy(update={"weights": "none"}),
            }
        )
        return self.rebuilt(config)

    def calibrated(self, temperatures: Mapping[str, float]) -> "GarmentGender":
        """Return this network with its probabilities scaled by "temperature"."""
        return self.with_config(temperature=self.config.temperature * temperatures.get("temperature", 1.0))

    def signature(self) -> Signature:
        """Read pictures."""
        return Signature(inputs=("image",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "backbone" (first network), "contour" (empty unless end to end) and "heads" (the rest)."""
        return parameters_by_module(self, {"image": "backbone", "contour": "contour"}, "heads")
