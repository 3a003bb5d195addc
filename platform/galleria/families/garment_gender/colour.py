"""Random colours for a few pictures of a batch, within exact bounds, so that a model depends less on colour."""

import torch
from torch import Tensor

from galleria.families.garment_gender.config import ColourChange

CHANNEL_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""All permutations of three channels but the identity."""


def change_colours(pixels: Tensor, limits: ColourChange) -> Tensor:
    """Change the colours of uint8 `[B, 3, H, W]` at random, by torch's global generator, which each epoch seeds.

    ⌊share · B⌋ pictures get their channels in another order: never more than ⌊share · N⌋ of an epoch's N, because
    a sum of rounded-down shares is at most the rounded-down share of the sum. Every picture has one channel
    shifted by δ, |δ| ≤ `limits.shift`, rounded towards zero to whole steps of 1 / 255 and clipped to the range.
    """
    count = len(pixels)
    rows = torch.arange(count)
    changed = pixels.clone()
    swapped = torch.randperm(count)[: int(limits.swap_share * count)]
    orders = torch.tensor(CHANNEL_ORDERS)[torch.randint(len(CHANNEL_ORDERS), (len(swapped),))]
    changed[swapped] = pixels[swapped[:, None], orders]
    if limits.shift:
        channel = torch.randint(3, (count,))
        step = ((torch.rand(count) * 2 - 1) * limits.shift * 255).trunc().to(torch.int16).to(pixels.device)
        shifted = changed[rows, channel].to(torch.int16) + step[:, None, None]
        changed[rows, channel] = shifted.clamp(0, 255).to(torch.uint8)
    return changed
