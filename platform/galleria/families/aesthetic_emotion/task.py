"""The two-branch network of CN109978074A: aesthetics and emotion, joined by cross-branch layers."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galleria.families.aesthetic_emotion.config import HEADS, AestheticEmotionConfig
from galleria.learn.encoders.stepwise import StepwiseEncoder
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import mean_over_workers

Maps = tuple[Tensor, Tensor]
"""Of the aesthetics and of the emotion branch, `[B, C, H, W]` each."""


class AestheticEmotion(Task):
    """Two branches that run stage by stage, cross-branch layers between them, a linear head on each."""

    config: AestheticEmotionConfig

    def __init__(self, config: AestheticEmotionConfig) -> None:
        super().__init__()
        self.config = config
        names = ("shared",) if config.mode == "shared" else HEADS
        branches = [StepwiseEncoder(config.image, config.stages) for _ in names]
        first = branches[0]
        if config.trunk:
            for branch in branches[1:]:
                branch.drop_beginning()
        self.branches = nn.ModuleDict(dict(zip(names, branches, strict=True)))
        self.heads = nn.ModuleDict({head: nn.Linear(first.width, len(config.class_weights[head])) for head in HEADS})
        for head in HEADS:
            self.register_buffer(f"{head}_weights", torch.tensor(config.class_weights[head]), persistent=False)
        layers: list[nn.Module] = []
        if config.mode == "nddr":
            layers = [Nddr(width, config, first.rectified) for width in first.widths]
        elif config.mode == "cross_stitch":
            layers = [CrossStitch(width, config) for width in first.widths]
        self.cross = nn.ModuleList(layers)

    def forward(self, batch: Batch) -> Outputs:
        """Compute CE_a + λ CE_e from `pixels` and the heads' labels `[B]`; a label of -1 is missing."""
        logits = self._logits(batch["pixels"])
        terms = {head: self._cross_entropy(logits[head], batch[head], head) for head in HEADS}
        return {"loss": terms["aesthetics"] + self.config.emotion_weight * terms["emotion"], **terms}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return probabilities `[B, K]` of each head's classes, from `pixels`; with `class_scores` also `score` `[B]`.

        The score is the expected one, Σ_k p_k · the mean score of class k of aesthetics.
        """
        outputs = {
            head: (logits.float() / self.config.temperatures.get(head, 1.0)).softmax(1)
            for head, logits in self._logits(batch["pixels"]).items()
        }
        if self.config.class_scores:
            scores = torch.tensor(self.config.class_scores, device=outputs["aesthetics"].device)
            outputs["score"] = outputs["aesthetics"] @ scores
        return outputs

    def features(self, pixels: Tensor) -> Maps:
        """Compute uint8 `[B, 3, H, W]` → pooled features `[B, width]` of each branch."""
        branches = [cast(StepwiseEncoder, branch) for branch in self.branches.values()]
        if self.config.mode == "shared":
            pooled = branches[0](pixels)
            return pooled, pooled
        one, other = branches
        first_map = one.begin(pixels)
        maps = first_map, first_map if self.config.trunk else other.begin(pixels)
        for stage in range(self.config.stages):
            if stage > 0:
                maps = one.advance(maps[0], stage), other.advance(maps[1], stage)
            if self.cross:
                maps = self.cross[stage](*maps)
        return one.finish(maps[0]), other.finish(maps[1])

    def exported(self) -> "AestheticEmotion":
        """Return the full network, independent of the file of its pretrained weights."""
        image = self.config.image.model_copy(update={"weights": "none"})
        return self.rebuilt(self.config.model_copy(update={"image": image}))

    def calibrated(self, temperatures: Mapping[str, float]) -> "AestheticEmotion":
        """Return this network with each head's probabilities scaled by "<head>/temperature"."""
        own = self.config.temperatures
        fitted = {head: own.get(head, 1.0) * temperatures.get(f"{head}/temperature", 1.0) for head in HEADS}
        return self.with_config(temperatures=fitted)

    def signature(self) -> Signature:
        """Read pictures."""
        return Signature(inputs=("image",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "backbone" (all branches), "cross" (the layers between them) and "heads"."""
        return parameters_by_module(self, {"branches": "backbone", "cross": "cross"}, "heads")

    def _logits(self, pixels: Tensor) -> dict[str, Tensor]:
        return {head: self.heads[head](pooled) for head, pooled in zip(HEADS, self.features(pixels), strict=True)}

    def _cross_entropy(self, logits: Tensor, labels: Tensor, head: str) -> Tensor:
        """Return the mean over the samples that have a label."""
        weights = self.get_buffer(f"{head}_weights")
        losses = F.cross_entropy(logits, labels, weight=weights, ignore_index=-1, reduction="none")
        labelled = (labels >= 0).sum()
        return mean_over_workers(losses.sum() / labelled.clamp(min=1), labelled)


class Nddr(nn.Module):
    """Each branch goes on with a 1 × 1 convolution of both maps (Gao et al., "NDDR-CNN", 2019).

    z_a = ReLU(BN(W_a[x_a; x_e])), z_e = ReLU(BN(W_e[x_e; x_a])). The ReLU is there only where the stage itself ends
    in one: elsewhere it would cut off the negative half of maps that the next stage was pretrained to read.
    """

    def __init__(self, width: int, config: AestheticEmotionConfig, rectified: bool) -> None:
        super().__init__()
        self.aesthetics, self.emotion = (self._layer(width, config, rectified) for _ in HEADS)

    def forward(self, aesthetics: Tensor, emotion: Tensor) -> Maps:
        """Fuse the maps."""
        return (
            self.aesthetics(torch.cat([aesthetics, emotion], 1)),
            self.emotion(torch.cat([emotion, aesthetics], 1)),
        )

    @staticmethod
    def _layer(width: int, config: AestheticEmotionConfig, rectified: bool) -> nn.Sequential:
        reduce = nn.Conv2d(2 * width, width, 1, bias=not config.norm)
        diagonal = torch.eye(width)
        with torch.no_grad():
            reduce.weight.copy_(torch.cat([config.own * diagonal, config.other * diagonal], 1)[..., None, None])
            if reduce.bias is not None:
                reduce.bias.zero_()
        layer = nn.Sequential(reduce)
        if config.norm:
            layer.append(nn.BatchNorm2d(width))
        if rectified:
            layer.append(nn.ReLU())
        return layer


class CrossStitch(nn.Module):
    """Each branch goes on with a weighted sum of both maps, channel by channel (Misra et al., 2016)."""

    def __init__(self, width: int, config: AestheticEmotionConfig) -> None:
        super().__init__()
        start = torch.tensor([[config.own, config.other], [config.other, config.own]])
        self.weights = nn.Parameter(start[..., None, None, None].repeat(1, 1, width, 1, 1))

    def forward(self, aesthetics: Tensor, emotion: Tensor) -> Maps:
        """Fuse the maps."""
        (own_a, other_a), (other_e, own_e) = self.weights
        return own_a * aesthetics + other_a * emotion, own_e * emotion + other_e * aesthetics
