"""The network of the category-tree patent (technology no. 25948710): a feature pyramid with a vector for each level."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from galleria.errors import ConfigurationError
from galleria.families.category_tree.config import CategoryTreeConfig, check_complete
from galleria.learn.encoders.image import ImageEncoder, StageEncoder
from galleria.learn.losses.mining import Mining
from galleria.learn.losses.softmax import class_softmax
from galleria.learn.task import Batch, Outputs, Signature, Task, parameters_by_module
from galleria.learn.training.data_parallel import gather_lists, gather_rows, mean_over_workers
from galleria.learn.training.discriminant import class_directions, discriminant_projection, start_projection

STAGES = 4
"""Most maps that the backbone returns; a deeper tree's upper levels read maps that are pooled further."""


class CategoryTree(Task):
    """Pictures → `e = concat_l √w_l·u_l` `[B, D]` with unit vectors u_l, so that e·e' = Σ_l w_l cos_l and ‖e‖ = 1.

    `L = Σ_l CE(s·W_l u_l, y_l) + λ·Σ_l w_l·½[mean of d_l² over pairs of one class + mean of max(0, margin − d_l)² over
    the others]`.
    Level l reads the l-th coarsest map of a feature pyramid.
    """

    config: CategoryTreeConfig

    def __init__(self, config: CategoryTreeConfig) -> None:
        super().__init__()
        self.config = config
        self.image: ImageEncoder | StageEncoder
        if config.head == "none":
            self.image = ImageEncoder(config.image, config.size)
            return
        check_complete(config)
        self.used = [level for level in range(config.levels) if config.level_weights[level] > 0]
        self.image = StageEncoder(config.image, min(config.levels, STAGES), config.size)
        self.pyramid = FeaturePyramidNetwork(self.image.widths, config.channels)
        classes = [len(parents) for parents in config.tree] + [config.products] * config.product_level
        self.heads = nn.ModuleDict()
        self.classes = nn.ModuleDict()
        for level in self.used:
            dimension = config.dimensions[level]
            self.heads[str(level + 1)] = nn.Sequential(
                nn.Linear(config.channels, dimension, bias=False), nn.BatchNorm1d(dimension)
            )
            if classes[level]:
                self.classes[str(level + 1)] = nn.Linear(dimension, classes[level], bias=False)

        if config.contrastive and config.mining.is_on:
            self.mined = nn.ModuleDict({str(level + 1): self._mined_loss(level) for level in self.used})

    def _mined_loss(self, level: int) -> nn.Module:
        from galleria.learn.losses.contrastive import mined_pair_contrast  # here: it is slow to import

        return mined_pair_contrast(self.config.margin, self.config.mining, self.config.dimensions[level])

    def forward(self, batch: Batch) -> Outputs:
        """Compute the loss and its terms from `pixels`, `label` `[B, L]` and `product`, all of them known."""
        if self.config.head == "none":
            raise ConfigurationError("head='none' is a baseline without a loss: train with head='tree'")
        vectors = self.vectors(batch["pixels"])
        labels = batch["label"]
        softmax = torch.stack([self._softmax(vector, level, labels[:, level]) for level, vector in vectors.items()])
        softmax = mean_over_workers(softmax, len(labels))
        terms = {f"softmax_{level + 1}": term for level, term in zip(vectors, softmax, strict=True)}
        loss = softmax.sum()
        if self.config.contrastive:
            labels, products, *rows = gather_rows(labels, batch["product"], *vectors.values())
            vectors = dict(zip(vectors, rows, strict=True))
            pairs = {level: labels[:, level] for level in vectors}
            if self.config.pairs == "product":
                pairs[self.config.levels - 1] = products
            parts = [
                self.config.level_weights[level] * self._pair_contrast(level, vector, pairs[level])
                for level, vector in vectors.items()
            ]
            terms["contrastive"] = torch.stack(parts).sum()
            loss = loss + self.config.contrastive * terms["contrastive"]
        return {"loss": loss, **terms}

    def _pair_contrast(self, level: int, vectors: Tensor, classes: Tensor) -> Tensor:
        if self.config.mining.is_on:
            return cast(Tensor, self.mined[str(level + 1)](vectors, classes))
        return pair_contrast(vectors, classes, self.config.margin)

    def _softmax(self, vectors: Tensor, level: int, labels: Tensor) -> Tensor:
        classes = cast(nn.Linear, self.classes[str(level + 1)])
        width = vectors.shape[1]
        return class_softmax(
            vectors, classes.weight, labels, self.config.scale, (width,), sampled_classes=self.config.sampled_classes
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> Outputs:
        """Return `embedding` `[B, D]`, and `level_<l>` `[B, K_l]`, the probabilities of the categories of each level.

        With `level_weights` w' `[B, L]` the embedding is that of a query, concat_l (w'_l/√w_l)·u_l, whose inner
        product with another picture's embedding is Σ_l w'_l cos_l.
        """
        if "pixels" not in batch:
            return {}
        if self.config.head == "none":
            return {"embedding": F.normalize(self.image(batch["pixels"]), dim=1)}
        vectors = self.vectors(batch["pixels"])
        own = self.config.level_weights
        if "level_weights" in batch:
            requested = batch["level_weights"]
            parts = [requested[:, level, None] / own[level] ** 0.5 * vector for level, vector in vectors.items()]
        else:
            parts = [own[level] ** 0.5 * vector for level, vector in vectors.items()]
        return {"embedding": torch.cat(parts, 1), **self._probabilities(vectors)}

    def vectors(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute the unit vectors `[B, D_l]` of uint8 `[B, 3, H, W]`, by level of weight > 0 (0 is the root level)."""
        maps = self.maps(pixels)
        return {level: F.normalize(self.heads[str(level + 1)](maps[level].mean((2, 3))), dim=1) for level in self.used}

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Compute the map `[B, channels, H_l, W_l]` that each level reads, root level first."""
        stages = OrderedDict((str(index), stage) for index, stage in enumerate(self.image(pixels)))
        maps = list(self.pyramid(stages).values())[::-1]
        while len(maps) < self.config.levels:
            maps.insert(0, F.max_pool2d(maps[0], 2, ceil_mode=True))
        if self.config.levels_from == "coarsest":
            return maps[:1] * len(maps)
        return maps[::-1] if self.config.levels_from == "reversed" else maps

    @torch.no_grad()
    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Set pyramid and heads in closed form, if `config.warm_start`.

        The laterals become the discriminant analysis of products on the pooled stages together, which the pyramid
        then adds up; its 3 × 3 convolutions pass their input on; each head is the discriminant analysis of its
        level's pooled map, and class weights are the class means.
        """
        if not self.config.warm_start or self.config.head == "none":
            return
        self.eval()
        features: list[list[Tensor]] = []
        columns: list[Tensor] = []
        for batch in batches:
            known = (batch["label"] >= 0).all(1)
            if known.any():
                features.append([part.cpu() for part in _pooled(self.image(batch["pixels"][known]))])
                columns.append(torch.cat([batch["label"], batch["product"][:, None]], 1)[known].cpu())
        features = gather_lists({"features": features})["features"]
        columns = gather_lists({"columns": columns})["columns"]
        if not features:
            return
        pooled = [torch.cat(parts) for parts in zip(*features, strict=True)]
        *labels, products = torch.cat(columns).unbind(1)
        weight = discriminant_projection(pooled[-1], products, self.config.channels)
        self._start_pyramid(weight)
        maps = [part @ weight[:, : part.shape[1]].T for part in pooled]
        maps = maps[:1] * (self.config.levels - len(maps)) + maps  # a map that is pooled further is similar
        order = {"pyramid": maps, "coarsest": maps[:1] * len(maps), "reversed": maps[::-1]}
        for level in self.used:
            head, classes = self.heads[str(level + 1)], self.classes[str(level + 1)]
            vectors = start_projection(cast(nn.Sequential, head), order[self.config.levels_from][level], products)
            weights = cast(nn.Linear, classes).weight
            weights.copy_(class_directions(vectors, labels[level], len(weights)))

    def _start_pyramid(self, weight: Tensor) -> None:
        """Set laterals from the columns of `weight` `[channels, ΣC]`, coarsest stage first."""
        start = 0
        for block in reversed(self.pyramid.inner_blocks):
            lateral = block[0]
            lateral.weight.copy_(weight[:, start : start + lateral.in_channels, None, None])
            lateral.bias.zero_()
            start += lateral.in_channels
        for block in self.pyramid.layer_blocks:
            nn.init.dirac_(block[0].weight)
            block[0].bias.zero_()

    def _probabilities(self, vectors: Mapping[int, Tensor]) -> Outputs:
        """Compute the softmax on every level, over the children of the class that is likeliest on the level above."""
        outputs: Outputs = {}
        first = next(iter(vectors.values()))
        allowed = torch.ones(len(first), 1, dtype=torch.bool, device=first.device)
        for level, parents in enumerate(self.config.tree):
            allowed = allowed[:, list(parents)]
            if level in vectors:
                logits = self.config.scale * self.classes[str(level + 1)](vectors[level])
                outputs[f"level_{level + 1}"] = logits.masked_fill(~allowed, -torch.inf).softmax(1)
                allowed = F.one_hot(outputs[f"level_{level + 1}"].argmax(1), len(parents)).bool()
        return outputs

    def signature(self) -> Signature:
        """Read pictures; a query may weigh each level of the tree."""
        if self.config.head == "none":
            return Signature(("image",), cast(ImageEncoder, self.image).width)
        dimension = sum(self.config.dimensions[level] for level in self.used)
        return Signature(("image",), dimension, levels=self.config.levels)

    def exported(self) -> "CategoryTree":
        """Return all but the class weights of training products, and the memory of the contrastive term."""
        image = self.config.image.model_copy(update={"weights": "none"})
        return self.rebuilt(self.config.model_copy(update={"image": image, "products": 0, "mining": Mining()}))

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return groups "backbone", "pyramid" and "heads" (the rest)."""
        return parameters_by_module(self, {"image": "backbone", "pyramid": "pyramid"}, "heads")


def pair_contrast(vectors: Tensor, classes: Tensor, margin: float) -> Tensor:
    """Average over pairs of unit vectors `[B, D]`: d² where `classes` `[B]` agree, else max(0, margin − d)².

    Both kinds weigh the same, however many pairs each has: of one product are two in a hundred. In float32, since in
    bfloat16 small distances round to 0.
    """
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1, device=vectors.device)
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = (vectors.float() @ vectors.float().T)[first, second]
        squares = (2 - 2 * similarity).clamp(min=1e-9)  # the root of 0 has no gradient
        apart = (margin - squares.sqrt()).clamp(min=0).square()
    same = classes[first] == classes[second]
    means = [(values * pairs).sum() / pairs.sum().clamp(min=1) for values, pairs in ((squares, same), (apart, ~same))]
    kinds = same.any().float() + (~same).any()
    return torch.stack(means).sum() / kinds.clamp(min=1)


def _pooled(stages: Sequence[Tensor]) -> list[Tensor]:
    """Average the maps that each map of a pyramid adds up, before laterals weigh them: `[B, ΣC]`, coarsest first."""
    pooled = []
    coarser: list[Tensor] = []
    for stage in reversed(stages):
        coarser = [F.interpolate(part, stage.shape[-2:]) for part in coarser] + [stage]
        pooled.append(torch.cat([part.mean((2, 3)) for part in coarser], 1))
    return pooled
