"""The backbone in steps: the same features as in one, whichever the network and the number of steps."""

import pytest
import torch

from galleria.errors import ConfigurationError
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.encoders.image import ImageEncoder
from galleria.learn.encoders.stepwise import StepwiseEncoder


def pixels(count: int = 2, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def encoder(architecture: str = "test_resnet", count: int = 4) -> StepwiseEncoder:
    torch.manual_seed(0)
    return StepwiseEncoder(ImageEncoderConfig(architecture=architecture), count).eval()


@pytest.mark.parametrize(
    "architecture",
    ["test_resnet", "resnet50", "seresnet50", "tf_efficientnet_lite0", "efficientnet_b3", "mobilenetv2_100"],
)
def test_steps_equal_full_encoder(architecture):
    whole, steps = ImageEncoder(ImageEncoderConfig(architecture=architecture)).eval(), encoder(architecture)
    steps.load_state_dict(whole.state_dict())

    with torch.inference_mode():
        expected, found = whole(pixels()), steps(pixels())

    assert torch.equal(found, expected)
    assert found.shape == (2, steps.width)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_step_count_changes_nothing(count):
    with torch.inference_mode():
        assert torch.equal(encoder(count=count)(pixels()), encoder()(pixels()))


@pytest.mark.parametrize(
    ("architecture", "widths", "sides"),
    [("test_resnet", [32, 48, 192, 96], [16, 8, 4, 2]), ("tf_efficientnet_lite0", [24, 40, 112, 320], [16, 8, 4, 2])],
)
def test_maps_have_widths_of_stages(architecture, widths, sides):
    network = encoder(architecture)

    with torch.inference_mode():
        maps = [network.begin(pixels())]
        for stage in (1, 2, 3):
            maps.append(network.advance(maps[-1], stage))

    assert network.widths == widths
    assert [tuple(features.shape) for features in maps] == [
        (2, width, side, side) for width, side in zip(widths, sides, strict=True)
    ]


@pytest.mark.parametrize(("architecture", "rectified"), [("test_resnet", True), ("tf_efficientnet_lite0", False)])
def test_rectified_maps_are_not_negative(architecture, rectified):
    network = encoder(architecture)

    with torch.inference_mode():
        negative = (network.begin(pixels()) < 0).any().item()

    assert network.rectified is rectified
    assert negative is not rectified


def test_drop_beginning_accepts_other_maps():
    whole, rest = encoder(count=2), encoder(count=2)
    rest.drop_beginning()

    with torch.inference_mode():
        expected = whole(pixels())
        found = rest.finish(rest.advance(whole.begin(pixels()), 1))

    assert torch.equal(found, expected)
    assert {name.split(".")[1] for name in rest.state_dict()} == {"layer4"}


def test_too_many_steps_are_rejected():
    with pytest.raises(ConfigurationError, match="test_resnet has 5 stages, not 6: use fewer"):
        encoder(count=6)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"])
def test_unsupported_network_lists_supported(architecture):
    with pytest.raises(
        ConfigurationError, match=f"{architecture} cannot be run stage by stage: use a ResNet .*resnet50"
    ):
        encoder(architecture)
