"""A linear readout of contours from features, fitted as pictures pass: it scores networks that have no head."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.families.contour.task import CONTOUR, NONE

PENALTY = 1e-3
"""Of ridge regression, as a share of the mean square of a channel."""


class Readout:
    """Ridge regression from the channels of a bank to contours, both classes weighing alike.

    It keeps nothing but the sums over pixels that its solution needs: (C + 1)² numbers for each class.
    """

    def __init__(self, channels: int) -> None:
        self._sums = torch.zeros(2, channels + 1, channels + 1, dtype=torch.float64)

    @property
    def ready(self) -> bool:
        """Whether it has seen pixels of both classes."""
        return bool((self._sums[:, -1, -1] > 0).all())

    def learn(self, bank: Tensor, target: Tensor) -> None:
        """Add the certain pixels of pictures.

        Args:
            bank: `[B, L, C / L, H, W]`.
            target: `[B, H, W]` of `NONE`, `CONTOUR` and `UNCERTAIN`.
        """
        rows = _rows(bank)
        for place, label in enumerate((NONE, CONTOUR)):
            chosen = rows[target == label].double()
            self._sums[place] += chosen.T @ chosen

    def predict(self, bank: Tensor) -> NDArray[np.float32]:
        """Contours `[B, H, W]` in [0, 1] of a bank, from all that was learnt before."""
        means = self._sums / self._sums[:, -1, -1].view(2, 1, 1)
        gram = means.sum(0)
        penalty = PENALTY * gram.diagonal()[:-1].mean().clamp(min=1e-12)
        gram.diagonal()[:-1] += penalty
        weights = torch.linalg.solve(gram, means[1, :, -1])
        found: NDArray[np.float32] = (_rows(bank) @ weights.float()).clamp(0, 1).numpy()
        return found


def _rows(bank: Tensor) -> Tensor:
    """`[B, L, C / L, H, W]` → `[B, H, W, C + 1]` with a constant 1 as the last channel."""
    channels = bank.flatten(1, 2).movedim(1, -1).float()
    return torch.cat([channels, torch.ones_like(channels[..., :1])], -1)
