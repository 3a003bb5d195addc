"""The two-tower network of CN113159095A: texts guide a picture encoder, which then serves alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.families.text_guided.config import TextGuidedConfig
from galleria.learn.encoders.image import ImageEncoder
from galleria.learn.encoders.text import TextEncoder
from galleria.learn.losses.alignment import difference, label_aware_sigmoid
from galleria.learn.losses.softmax import class_softmax
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import gather_lists, gather_rows, mean_over_workers
from galleria.learn.training.discriminant import class_directions, ridge_regression, start_projection


class TextGuided(Task):
    """Pictures (and texts) → unit vectors `[B, D]` in one space.

    `L = w_d·mean‖v−t‖² + w_i·CE(s·W_i v) + w_t·CE(s·W_t t) + w_s·sigmoid(v, t) + w_c·contrastive(v)`, the
    terms but the first averaged over the Matryoshka slices.
    """

    config: TextGuidedConfig

    def __init__(self, config: TextGuidedConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageEncoder(config.image, config.size)
        if config.head == "projection":
            self.image_head: nn.Module = nn.Sequential(
                nn.Linear(self.image.width, config.dimension, bias=False), nn.BatchNorm1d(config.dimension)
            )
        elif config.dimension != self.image.width:
            raise ConfigurationError(
                f"head='none' gives the {self.image.width} features of the backbone: set dimension={self.image.width}"
            )
        else:
            self.image_head = nn.Identity()
        self.text = TextEncoder(config.text) if config.text else None
        self.text_head = nn.Linear(self.text.width, config.dimension) if self.text else None
        if config.classes:
            self.image_classes = nn.Linear(config.dimension, config.classes, bias=False)
            if self.text:
                self.text_classes = nn.Linear(config.dimension, config.classes, bias=False)
            if config.losses.contrastive and config.mining.is_on:
                self.mined = nn.ModuleDict({str(width): self._mined_loss(width) for width in self._slices()})
            if config.losses.sigmoid:
                self.sigmoid_scale = nn.Parameter(torch.tensor(10.0))
                self.sigmoid_bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, batch: Batch) -> Outputs:
        """Compute the loss and its terms from `pixels`, `label`, and with a text tower `tokens`, `token_mask`."""
        weights, labels = self.config.losses, batch["label"]
        images = self.embed_images(batch["pixels"])
        terms = {"image_softmax": self._softmax(images, self.image_classes, labels)}
        if weights.contrastive:
            terms["contrastive"] = self._contrastive(*gather_rows(images, labels))
        if self.text is not None:
            has_text = batch["token_mask"].any(1)
            texts = self.embed_texts(batch["tokens"], batch["token_mask"])[has_text]
            terms |= self._text_terms(images[has_text], texts, labels[has_text])
        terms = {name: term for name, term in terms.items() if getattr(weights, name)}
        loss = sum(
            (getattr(weights, name) * term for name, term in terms.items()),
            torch.zeros((), device=labels.device),
        )
        return {"loss": loss, **terms}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return `embedding` `[B, D]` of `pixels` and `text_embedding` `[B, D]` of `tokens`, whichever are there."""
        outputs = {}
        if "pixels" in batch:
            outputs["embedding"] = self.embed_images(batch["pixels"])
        if "tokens" in batch and self.text is not None:
            outputs["text_embedding"] = self.embed_texts(batch["tokens"], batch["token_mask"])
        return outputs

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Compute uint8 `[B, 3, H, W]` → unit vectors `[B, D]`."""
        return F.normalize(self.image_head(self.image(pixels)), dim=1)

    def embed_texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute token ids and mask `[B, T]` → unit vectors `[B, D]`. A text of several rows is encoded once."""
        assert self.text_head is not None
        return F.normalize(self.text_head(self._text_features(tokens, mask)), dim=1)

    def _text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        assert self.text is not None
        unique, index = torch.unique(torch.cat([tokens, mask], 1), dim=0, return_inverse=True)
        length = int(unique[:, tokens.shape[1] :].sum(1).max().clamp(min=1))  # no work on common padding
        features = self.text(unique[:, :length], unique[:, tokens.shape[1] :][:, :length])
        return cast(Tensor, features[index])

    @torch.no_grad()
    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Set heads in closed form, if `config.warm_start`.

        The picture head becomes the discriminant analysis of the backbone's features, the class weights its
        class means, and the text head the ridge regression of those means on the text features.
        """
        if not self.config.warm_start or self.config.head != "projection":
            return
        self.eval()
        parts: dict[str, list[Tensor]] = {"features": [], "labels": [], "texts": [], "has_text": []}
        for batch in batches:
            parts["features"].append(self.image(batch["pixels"]).cpu())
            parts["labels"].append(batch["label"].cpu())
            if self.text is not None:
                parts["texts"].append(self._text_features(batch["tokens"], batch["token_mask"]).cpu())
                parts["has_text"].append(batch["token_mask"].any(1).cpu())
        columns = {name: torch.cat(values) for name, values in gather_lists(parts).items() if values}
        labels = columns["labels"]
        vectors = start_projection(cast(nn.Sequential, self.image_head), columns["features"], labels)
        means = class_directions(vectors, labels, self.config.classes)
        self.image_classes.weight.copy_(means)
        if self.text_head is not None and columns["has_text"].any():
            has_text = columns["has_text"]
            weight, bias = ridge_regression(columns["texts"][has_text], means[labels[has_text]])
            self.text_head.weight.copy_(weight)
            self.text_head.bias.copy_(bias)
            self.text_classes.weight.copy_(means)

    def signature(self) -> Signature:
        """Read pictures, and texts where there is a text tower, into one space."""
        inputs = ("image",) if self.text is None else ("image", "text")
        dimension = self.config.dimension
        slices = tuple(width for width in self.config.slices if width < dimension)
        return Signature(inputs, dimension, slices=slices)

    def exported(self) -> "TextGuided":
        """Return the picture tower, and the text tower if `keep_text`; no training heads, no low-rank additions."""
        text = self.config.text if self.config.keep_text else None
        config = self.config.model_copy(
            update={
                "image": self.config.image.model_copy(update={"weights": "none"}),
                "text": text and text.model_copy(update={"weights": "none", "lora_rank": 0}),
                "classes": 0,
            }
        )
        state = self.state_dict()
        if self.text is not None and self.config.text is not None and self.config.text.lora_rank:
            state |= {f"text.network.{name}": value for name, value in self.text.merged().state_dict().items()}
        return self.rebuilt(config, state)

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "backbone" (picture encoder), "text" (text encoder) and "heads" (all the rest)."""
        return parameters_by_module(self, {"image": "backbone", "text": "text"}, "heads")

    def train(self, mode: bool = True) -> "TextGuided":
        """Set training mode; a frozen text encoder stays in evaluation mode, so that it is the same every step."""
        super().train(mode)
        if self.text is not None and not any(parameter.requires_grad for parameter in self.text.parameters()):
            self.text.eval()
        return self

    def _slices(self) -> list[int]:
        return sorted(
            {width for width in self.config.slices if width < self.config.dimension} | {self.config.dimension}
        )

    def _softmax(self, vectors: Tensor, classes: nn.Linear, labels: Tensor) -> Tensor:
        config = self.config
        loss = class_softmax(
            vectors, classes.weight, labels, config.scale, self._slices(), sampled_classes=config.sampled_classes
        )
        return mean_over_workers(loss, len(labels))

    def _mined_loss(self, width: int) -> nn.Module:
        from galleria.learn.losses.contrastive import supervised_contrastive  # here: see _supervised_contrastive

        return supervised_contrastive(self.config.contrastive_temperature, self.config.mining, width)

    def _contrastive(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.config.mining.is_on:
            return torch.stack([self.mined[str(d)](images[:, :d], labels) for d in self._slices()]).mean()
        loss = _supervised_contrastive(self.config.contrastive_temperature)
        return torch.stack([loss(images[:, :d], labels) for d in self._slices()]).mean()

    def _alignment(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        loss = _supervised_contrastive(self.config.alignment_temperature)
        others = labels.clone()  # of the same tensor the library concludes that row i is row i, and leaves it out
        both = [
            loss(images[:, :d], labels, ref_emb=texts[:, :d], ref_labels=others)
            + loss(texts[:, :d], labels, ref_emb=images[:, :d], ref_labels=others)
            for d in self._slices()
        ]
        return torch.stack(both).mean() / 2

    def _text_terms(self, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
        all_images, all_texts, all_labels = gather_rows(images, texts, labels)
        if len(all_texts) == 0:
            return {}
        terms = {
            "difference": mean_over_workers(difference(images, texts), len(texts)),
            "text_softmax": self._softmax(texts, self.text_classes, labels),
        }
        images, texts, labels = all_images, all_texts, all_labels  # the other terms compare pairs of rows
        if self.config.losses.alignment:
            terms["alignment"] = self._alignment(images, texts, labels)
        if self.config.losses.sigmoid:
            pairs = [(F.normalize(images[:, :d], dim=1), F.normalize(texts[:, :d], dim=1)) for d in self._slices()]
            losses = [label_aware_sigmoid(v, t, labels, self.sigmoid_scale, self.sigmoid_bias) for v, t in pairs]
            terms["sigmoid"] = torch.stack(losses).mean()
        return terms


def _supervised_contrastive(temperature: float) -> Callable[..., Tensor]:
    # Imported here: it brings scipy.stats, a second of CPU that a process which only serves does not need.
    from pytorch_metric_learning.losses import SupConLoss

    loss: Callable[..., Tensor] = SupConLoss(temperature)
    return loss
