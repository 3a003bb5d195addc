"""A linear readout of contours from features, fitted incrementally: it scores networks that have no head."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galleria.families.contour.config import CONTOUR, NONE

PENALTY = 1e-3
"""Of ridge regression, as a share of the mean square of a channel."""


class Readout:
    """Ridge regression from the channels of a bank to contours, with equal weight on both classes.

    It keeps only the sums over pixels that its solution needs: (C + 1)² numbers for each class.
    """

    def __init__(self, channels: int) -> None:
        self._sums = torch.zeros(2, channels + 1, channels + 1, dtype=torch.float64)

    @property
    def ready(self) -> bool:
        """Return whether there were pixels of both classes."""
        return bool((self._sums[:, -1, -1] > 0).all())

    def learn(self, bank: Tensor, target: Tensor) -> None:
        """Add the certain pixels of pictures.

        Args:
            bank: `[B, L, C / L, H, W]`.
            target: `[B, H, W]` of `NONE`, `CONTOUR` and `UNCERTAIN`.
        """
        rows = _rows(bank)
        for index, label in enumerate((NONE, CONTOUR)):
            pixels = rows[target == label].double()
            self._sums[index] += pixels.T @ pixels

    def predict(self, bank: Tensor) -> NDArray[np.float32]:
        """Predict contours `[B, H, W]` in [0, 1] of a bank, from the pictures learnt so far."""
        means = self._sums / self._sums[:, -1, -1].view(2, 1, 1)
        gram = means.sum(0)
        penalty = PENALTY * gram.diagonal()[:-1].mean().clamp(min=1e-12)
        gram.diagonal()[:-1] += penalty
        weights = torch.linalg.solve(gram, means[1, :, -1])
        contours: NDArray[np.float32] = (_rows(bank) @ weights.float()).clamp(0, 1).numpy()
        return contours


def _rows(bank: Tensor) -> Tensor:
    """Reshape `[B, L, C / L, H, W]` to `[B, H, W, C + 1]` with a constant 1 as the last channel."""
    channels = bank.flatten(1, 2).movedim(1, -1).float()
    return torch.cat([channels, torch.ones_like(channels[..., :1])], -1)
