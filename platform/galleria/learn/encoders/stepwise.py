"""A backbone that runs stage by stage, so that its maps can be changed in between."""

from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.encoders.image import Backbone


class StepwiseEncoder(Backbone):
    """An `ImageEncoder` that runs in steps: `begin`, `advance` through stages 1 … count − 1, `finish`.

    Only networks that are a chain of their stages can be cut: timm's ResNet and EfficientNet classes.

    Attributes:
        width: number of features that `finish` returns.
        widths: channels of the map after each stage.
        rectified: every stage ends in a ReLU, so that its maps hold no negative number.
    """

    def __init__(self, config: ImageEncoderConfig, count: int) -> None:
        super().__init__(config, 224, num_classes=0)  # none of these networks has a fixed size
        chain, self.rectified = _chain(self.network, config.architecture)
        ends = [chain.index(stage["module"]) + 1 for stage in self.network.feature_info]
        if count > len(ends):
            raise ConfigurationError(f"{config.architecture} has {len(ends)} stages, not {count}: use fewer")
        starts = [0, *ends[-count:]]
        self._steps = [chain[start:end] for start, end in zip(starts, [*starts[1:], len(chain)], strict=True)]
        self.widths: list[int] = [stage["num_chs"] for stage in self.network.feature_info[-count:]]
        self.width: int = self.network.head_hidden_size

    def begin(self, pixels: Tensor) -> Tensor:
        """Run the first stage and all before it: uint8 RGB `[B, 3, H, W]` → its map."""
        return self.advance(self.normalised(pixels), 0)

    def advance(self, features: Tensor, stage: int) -> Tensor:
        """Run one stage: the map of the previous stage → this one's map `[B, widths[stage], H', W']`."""
        for name in self._steps[stage]:
            features = self.network.get_submodule(name)(features)
        return features

    def finish(self, features: Tensor) -> Tensor:
        """Run what follows the last stage: its map → pooled features `[B, width]`."""
        return self.network.forward_head(self.advance(features, -1), pre_logits=True)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features, the same as `ImageEncoder`."""
        features = self.begin(pixels)
        for stage in range(1, len(self.widths)):
            features = self.advance(features, stage)
        return self.finish(features)

    def drop_beginning(self) -> None:
        """Remove the modules that `begin` runs: this encoder advances another one's maps."""
        for name in self._steps[0]:
            self.network.set_submodule(name, nn.Identity())


def _chain(network: nn.Module, architecture: str) -> tuple[list[str], bool]:
    """Return the names of the modules in the order in which they run, and whether stages end in a ReLU."""
    if isinstance(network, ResNet):
        names = ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
        return names, isinstance(network.act1, nn.ReLU)
    if isinstance(network, EfficientNet):
        blocks = [f"blocks.{index}" for index in range(len(network.blocks))]
        return ["conv_stem", "bn1", *blocks, "conv_head", "bn2"], False  # MobileNetV2's bottlenecks end linearly
    raise ConfigurationError(
        f"{architecture} cannot be run stage by stage: use a ResNet (resnet50, seresnet50, …) or "
        "an EfficientNet or MobileNetV2 (efficientnet_b3, tf_efficientnet_lite0, mobilenetv2_100, …)"
    )
