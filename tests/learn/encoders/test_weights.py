"""Pretrained weights are read from files that fit, and no code in a file ever runs."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from galleria.errors import ConfigurationError
from galleria.learn.encoders.weights import load_weights


def network(hidden: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 1))


def stored(path: Path, state: object) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin"])
def test_both_file_formats_are_loaded(tmp_path, name):
    source, target = network(), network()

    load_weights(target, stored(tmp_path / name, source.state_dict()))

    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_missing_file_names_the_fix(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no weights at .*: name a file, or use weights='none'"):
        load_weights(network(), str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_damaged_bytes_are_rejected(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")

    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_weights(network(), str(tmp_path / name))


@pytest.mark.parametrize("content", [[1, 2], 3, torch.zeros(2), {"state_dict": {}}, {"0.weight": 1.0}])
def test_other_content_is_rejected(tmp_path, content):
    with pytest.raises(ConfigurationError):
        load_weights(network(), stored(tmp_path / "w.pth", content))


class Canary:
    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.nest,)


@pytest.mark.parametrize("write", ["torch", "pickle"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_code_in_file_never_runs(tmp_path, name, write):
    state = {"0.weight": Canary(tmp_path / "sang")}
    if write == "torch":
        torch.save(state, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(state))

    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_weights(network(), str(tmp_path / name))

    assert not (tmp_path / "sang").exists()


def test_other_shapes_are_rejected_by_name(tmp_path):
    target = network()
    before = target[0].weight.clone()

    with pytest.raises(ConfigurationError, match=r"0 tensors missing, 3 of another shape.*first: 0.weight"):
        load_weights(target, stored(tmp_path / "w.pth", network(hidden=5).state_dict()))

    assert torch.equal(target[0].weight, before)


def test_missing_tensor_is_rejected(tmp_path):
    state = network().state_dict()
    del state["1.bias"]

    with pytest.raises(ConfigurationError, match=r"1 tensors missing.*first: 1.bias"):
        load_weights(network(), stored(tmp_path / "w.pth", state))


def test_timm_classifier_is_left_out(tmp_path):
    whole = timm.create_model("test_resnet", num_classes=7)
    headless = timm.create_model("test_resnet", num_classes=0)

    load_weights(headless, stored(tmp_path / "w.safetensors", whole.state_dict()))

    assert torch.equal(headless.conv1[0].weight, whole.conv1[0].weight)


def test_deeper_network_is_rejected(tmp_path):
    deeper, target = timm.create_model("resnet26"), timm.create_model("resnet14t", num_classes=0)
    state = {**target.state_dict(), "layer1.1.conv1.weight": deeper.state_dict()["layer1.1.conv1.weight"]}

    with pytest.raises(ConfigurationError, match=r"1 left over .*first: layer1.1.conv1.weight"):
        load_weights(target, stored(tmp_path / "w.pth", state))
