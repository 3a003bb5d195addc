"""The network of CN108491817B: features of sampled frames, weighted by rounds of self-attention, then classified."""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.families.video_event.config import VideoEventConfig
from galleria.learn.encoders.image import ImageEncoder
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import mean_over_workers


class AttentionRound(nn.Module):
    """`A = softmax(W2 tanh(W1 Hᵀ))` (Lin et al., "A Structured Self-Attentive Sentence Embedding", 2017)."""

    def __init__(self, features: int, width: int, rows: int) -> None:
        super().__init__()
        self.activation = nn.Linear(features, width, bias=False)
        self.weighting = nn.Linear(width, rows, bias=False)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Compute weights `[B, r, T]` of inputs `[B, T, d]`: rows sum to 1, and are 0 outside the mask `[B, T]`."""
        scores_BTR = self.weighting(torch.tanh(self.activation(inputs)))
        return _masked_softmax(scores_BTR.transpose(1, 2), mask)


class RandomRound(nn.Module):
    """The control: weights of the same shape from scores drawn once, which depend on the position in the clip alone."""

    scores: Tensor

    def __init__(self, positions: int, rows: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.randn(rows, positions))

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Return weights `[B, r, T]`, like `AttentionRound`."""
        return _masked_softmax(self.scores.expand(len(inputs), -1, -1), mask)


def redundancy(attention: Tensor) -> Tensor:
    """Compute `‖AAᵀ − I‖²_F` `[B]` of `[B, r, T]` weights: 0 where every row attends to one frame of its own."""
    overlap = attention @ attention.transpose(1, 2)
    ideal = torch.eye(overlap.shape[1], device=overlap.device, dtype=overlap.dtype)
    return (overlap - ideal).square().sum((1, 2))


class VideoEvent(Task):
    """Backbone, attention and classifier, trained together.

    Features `H` `[T, d]` of the frames; `A1 = attention(H)`, `M1 = A1 H`; every further round the same on the M
    before it; the last M, laid flat, goes through the classifier. Loss: binary cross-entropy of every event, or
    cross-entropy where a video has exactly one, `+ λ Σ_rounds ‖AAᵀ − I‖²_F / r²`.
    """

    config: VideoEventConfig

    def __init__(self, config: VideoEventConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.image = ImageEncoder(config.image, config.size)
        width = self.image.width
        lengths = (config.frames, *config.rounds)
        rounds: list[nn.Module] = []
        if config.pooling == "attention":
            rounds = [AttentionRound(width, config.attention, rows) for rows in config.rounds]
        elif config.pooling == "random":
            rounds = [RandomRound(*pair) for pair in itertools.pairwise(lengths)]
        self.rounds = nn.ModuleList(rounds)
        pooled = width * (config.rounds[-1] if rounds else 1)
        layers: list[nn.Module] = [nn.Dropout(config.dropout)]
        if config.hidden:
            layers += [nn.Linear(pooled, config.hidden), nn.ReLU()]
        self.classifier = nn.Sequential(*layers, nn.Linear(config.hidden or pooled, config.classes))

    def forward(self, batch: Batch) -> Outputs:
        """Compute the loss and its terms from `frames`, `frame_mask`, and `events` or `label`, which may be unknown."""
        logits, attentions = self._logits(batch)
        classification = self._classification(logits, batch)
        if not self.config.penalty or not self.rounds or self.config.pooling == "random":
            return {"loss": classification, "classification": classification}
        penalty = torch.stack([redundancy(a).mean() / a.shape[1] ** 2 for a in attentions]).sum()
        penalty = mean_over_workers(penalty, len(logits))
        loss = classification + self.config.penalty * penalty
        return {"loss": loss, "classification": classification, "penalty": penalty}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return the outputs for `frames` `[B, T, 3, S, S]` with `frame_mask` and `seconds` `[B, T]`.

        `probabilities` `[B, K]`; `explanation` `[B, r, T]`, the share of every frame in each row of the last
        round (rows sum to 1); `threshold` `[B]`; and the mask and times of the batch.
        """
        logits, attentions = self._logits(batch)
        single = self.config.labels == "single"
        scaled = logits.float() / self.config.temperature
        explanation = attentions[0]
        for attention in attentions[1:]:
            explanation = attention @ explanation
        return {
            "probabilities": scaled.softmax(1) if single else scaled.sigmoid(),
            "explanation": explanation.float(),
            "threshold": torch.full((len(logits),), self.config.threshold, device=logits.device),
            "frame_mask": batch["frame_mask"],
            "seconds": batch["seconds"],
        }

    def exported(self) -> "VideoEvent":
        """Return the full network, independent of the file of its pretrained weights."""
        image = self.config.image.model_copy(update={"weights": "none"})
        return self.rebuilt(self.config.model_copy(update={"image": image}))

    def calibrated(self, temperatures: Mapping[str, float]) -> "VideoEvent":
        """Return this network with its probabilities scaled by "temperature"."""
        return self.with_config(temperature=self.config.temperature * temperatures.get("temperature", 1.0))

    def signature(self) -> Signature:
        """Read videos."""
        return Signature(inputs=("video",))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "backbone" (frame encoder), "attention" (all rounds) and "classifier"."""
        return parameters_by_module(self, {"image": "backbone", "rounds": "attention"}, "classifier")

    def _logits(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Compute logits `[B, K]` and the attention `[B, r, T]` of every round; with mean pooling one uniform row."""
        mask = batch["frame_mask"].bool()
        matrix = self._features(batch["frames"], mask)
        if not self.rounds:
            uniform = (mask / mask.sum(1, keepdim=True)).to(matrix.dtype)[:, None]
            return self.classifier((uniform @ matrix).flatten(1)), [uniform]
        attentions = []
        for attend in self.rounds:
            attention = attend(matrix, mask)
            attentions.append(attention)
            matrix = attention @ matrix
            mask = torch.ones(matrix.shape[:2], dtype=torch.bool, device=mask.device)
        return self.classifier(matrix.flatten(1)), attentions

    def _features(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Compute features `[B, T, d]`. Padding is 0 without computation and does not enter batch statistics."""
        unpadded = self.image(frames[mask])
        features: Tensor = unpadded.new_zeros(*mask.shape, unpadded.shape[1])
        features[mask] = unpadded
        return features

    def _classification(self, logits: Tensor, batch: Batch) -> Tensor:
        single = self.config.labels == "single"
        labelled = batch["label"] >= 0 if single else batch["events"][:, 0] >= 0
        if not labelled.any():
            loss = logits.sum() * 0
        elif single:
            loss = F.cross_entropy(logits[labelled], batch["label"][labelled])
        else:
            loss = F.binary_cross_entropy_with_logits(logits[labelled], batch["events"][labelled])
        return mean_over_workers(loss, labelled.sum())


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(2)


def _check(config: VideoEventConfig) -> None:
    if config.pooling == "mean":
        return
    if len(config.rounds) < 2:
        raise ConfigurationError(f"rounds={config.rounds} is {len(config.rounds)} round(s) of attention: use 2 or more")
    for rows, length in zip(config.rounds, (config.frames, *config.rounds), strict=False):
        if not 1 <= rows <= length:
            raise ConfigurationError(
                f"a round of {rows} rows over {length} cannot keep its rows apart: use 1 to {length} rows, "
                f"or more frames (rounds={config.rounds}, frames={config.frames})"
            )
