"""The picture encoder: any timm backbone, statistics that move only where they may."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.encoders.image import ImageEncoder


def pixels(count: int = 4, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def encoder(**options) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(ImageEncoderConfig(**{"architecture": "test_resnet", **options}))


def statistics(network: ImageEncoder) -> list[torch.Tensor]:
    return [value.clone() for name, value in network.named_buffers() if "running" in name]


@pytest.mark.parametrize(
    "architecture", ["resnet50", "seresnet50", "efficientnet_b3", "mobilenetv3_small_050", "tf_efficientnet_lite0"]
)
def test_features_have_backbone_width(architecture):
    network = encoder(architecture=architecture).eval()
    with torch.inference_mode():
        features = network(pixels(1))

    assert features.shape == (1, network.width)


def test_vit_loads_weights_of_another_size(tmp_path):
    architecture, path = "test_vit", tmp_path / "vit.safetensors"
    torch.manual_seed(0)
    saved = timm.create_model(architecture, img_size=64, num_classes=0).eval()
    save_file(saved.state_dict(), path)
    config = ImageEncoderConfig(architecture=architecture, weights=str(path))

    same, larger = (ImageEncoder(config, size).eval() for size in (64, 96))

    assert torch.equal(same(pixels(2, 64)), saved(same.normalised(pixels(2, 64))))
    one_colour = [torch.full((1, 3, size, size), 90, dtype=torch.uint8) for size in (64, 96)]
    assert torch.cosine_similarity(same(one_colour[0]), larger(one_colour[1])).item() > 0.95
    assert larger.network.pos_embed.shape[1] > same.network.pos_embed.shape[1]


def test_pixels_are_normalised_for_backbone():
    half = encoder()  # mean .5, deviation .5
    half.network = torch.nn.Identity()
    usual = encoder(architecture="resnet18")  # ImageNet's colours

    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)

    assert torch.allclose(half(levels)[0, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert torch.allclose(usual.mean.flatten() / 255, torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(usual.deviation.flatten() / 255, torch.tensor([0.229, 0.224, 0.225]))


def test_evaluation_is_independent_of_batch():
    network = encoder().eval()

    assert torch.allclose(network(pixels())[:1], network(pixels()[:1]), atol=1e-5)


@pytest.mark.parametrize(("statistics_are", "move"), [("trained", True), ("frozen", False)])
def test_statistics_move_unless_frozen(statistics_are, move):
    network = encoder(statistics=statistics_are).train()
    before = statistics(network)

    network(pixels()).sum().backward()

    assert len(before) > 4
    assert [not torch.equal(one, other) for one, other in zip(before, statistics(network), strict=True)] == [
        move
    ] * len(before)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_fully_frozen_keeps_statistics():
    network = encoder(statistics="trained").requires_grad_(False).train()
    before = statistics(network)

    network(pixels())

    assert all(torch.equal(one, other) for one, other in zip(before, statistics(network), strict=True))


def test_frozen_modules_keep_their_state():
    network = encoder(frozen=("conv1", "layer1")).train()
    before = {name: value.clone() for name, value in network.network.named_buffers() if "running_mean" in name}

    network(pixels()).sum().backward()

    still = {name for name, parameter in network.network.named_parameters() if parameter.grad is None}
    moved = {
        name for name, value in network.network.named_buffers() if name in before and (value != before[name]).any()
    }
    assert {name.split(".")[0] for name in still} == {"conv1", "layer1"}
    assert {name.split(".")[0] for name in before} - {name.split(".")[0] for name in moved} == {"conv1", "layer1"}


def test_frozen_name_is_exact():
    network = encoder(architecture="efficientnet_b3", frozen=("blocks.1",))

    still = {name for name, parameter in network.network.named_parameters() if not parameter.requires_grad}

    assert still
    assert all(name.startswith("blocks.1.") for name in still)


def test_unknown_frozen_module_is_rejected():
    with pytest.raises(ConfigurationError, match=r"test_resnet has no module 'layer9' to freeze: its parts are conv1,"):
        encoder(frozen=("layer9",))


def test_evaluation_keeps_statistics():
    network = encoder().train().eval()
    before = statistics(network)

    network(pixels())

    assert all(torch.equal(one, other) for one, other in zip(before, statistics(network), strict=True))


@pytest.mark.parametrize(
    ("wrong", "right"), [("resnt50", "resnet50"), ("resnet5", "resnet50"), ("efficentnet_b3", "efficientnet_b3")]
)
def test_unknown_name_suggests_known_ones(wrong, right):
    with pytest.raises(ConfigurationError, match=f"no model '{wrong}': did you mean .*{right}"):
        encoder(architecture=wrong)


def test_unlike_name_has_no_suggestion():
    with pytest.raises(ConfigurationError, match=r"'§§§'$"):
        encoder(architecture="§§§")


def test_local_weights_skip_classifier(tmp_path):
    source = timm.create_model("test_resnet", num_classes=5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")

    loaded = encoder(weights=str(tmp_path / "w.safetensors"))

    assert torch.equal(loaded.network.conv1[0].weight, source.conv1[0].weight)


def test_other_backbones_weights_are_rejected(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")

    with pytest.raises(ConfigurationError, match="another network"):
        encoder(architecture="test_efficientnet", weights=str(tmp_path / "w.safetensors"))
