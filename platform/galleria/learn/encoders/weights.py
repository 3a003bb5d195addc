"""Reads pretrained weights from a local file, never running code found in it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from galleria.errors import ConfigurationError

POSITIONS = "pos_embed"


def load_weights(module: nn.Module, path: str, part: bool = False) -> None:
    """Load a `.safetensors` file, or a PyTorch file with `weights_only=True`, into `module`.

    Names must agree. A classifier that `module` does not have is left out; no other tensor may be missing or left
    over, unless `module` is `part` of the network in the file: then tensors that it lacks are left out. The positions
    of a vision transformer for another input size are interpolated.

    Raises:
        ConfigurationError: the file is missing, unreadable, or made for another network.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(f"there are no weights at {path}: name a file, or use weights='none'")
    try:
        state: Mapping[str, Tensor]
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it is not a plain mapping of names to tensors")
    except Exception as error:
        raise ConfigurationError(f"the weights at {path} cannot be read: {error}") from error
    own = module.state_dict()
    state = _at_size_of(module, state)
    missing = [name for name in own if name not in state]
    mismatched = [name for name in own if name in state and state[name].shape != own[name].shape]
    heads = _classifiers(module)
    unexpected = [name for name in state if name not in own and not name.startswith(heads) and not part]
    if missing or mismatched or unexpected:
        raise ConfigurationError(
            f"the weights at {path} are of another network: {len(missing)} tensors missing, {len(mismatched)} of "
            f"another shape, {len(unexpected)} left over (first: {(missing + mismatched + unexpected)[0]}): choose the "
            "architecture that they were trained with"
        )
    module.load_state_dict({name: state[name] for name in own})


def _at_size_of(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights with the positions that a vision transformer of timm has at its input size."""
    own, saved = getattr(module, POSITIONS, None), state.get(POSITIONS)
    if own is None or saved is None or own.shape == saved.shape or own.shape[-1] != saved.shape[-1]:
        return state
    grid = list(module.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefix = 0 if getattr(module, "no_embed_class", False) else module.num_prefix_tokens
    return {**state, POSITIONS: resample_abs_pos_embed(saved, new_size=grid, num_prefix_tokens=prefix)}


def _classifiers(module: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of a timm network's classifier tensors."""
    names = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
