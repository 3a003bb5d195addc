"""How well predicted contours match annotated ones: ODS and OIS F of Martin, Fowlkes & Malik (2004).

BSDS's `correspondPixels` pairs predicted with annotated pixels, one to one, by an assignment of least distance on
a sparse random graph. Only the number of pairs enters the scores, so here it is computed exactly, as the largest
matching of pixels within the tolerance (Hopcroft & Karp, 1973). BSDS also has several annotators for a picture, and
thins predictions along their orientation first; here there is one, and thinning is that of Zhang & Suen (1984).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from galleria.learn.metrics.score import Score, percentile_score, resample_counts

THRESHOLDS = np.arange(1, 21) / 21
TOLERANCE = 0.0075
"""Largest distance of a pair, as a share of the picture's diagonal; see `boundary_counts` for small pictures."""

Counts = NDArray[np.int64]


def boundary_counts(
    probabilities: NDArray[np.floating], contour: NDArray[np.bool_], tolerance: float = TOLERANCE
) -> Counts:
    """Count the pixels of one picture that agree, at each of `THRESHOLDS`, after thinning both sides.

    The distance allowed is at least one pixel: below a diagonal of 133 pixels `tolerance` would allow none at all,
    and thinning alone moves a line of even width by half a pixel.

    Args:
        probabilities: `[H, W]` of a contour.
        contour: `[H, W]` annotated pixels.
        tolerance: share of the diagonal.

    Returns:
        `[T, 3]`: pairs, predicted pixels, annotated pixels.
    """
    distance = max(tolerance * float(np.hypot(*contour.shape)), 1.0)
    actual = np.argwhere(skeletonize(contour))
    counts = np.zeros((len(THRESHOLDS), 3), np.int64)
    for index, threshold in enumerate(THRESHOLDS):
        predicted = np.argwhere(skeletonize(probabilities >= threshold))
        counts[index] = _pairs(predicted, actual, distance), len(predicted), len(actual)
    return counts


def boundary_scores(counts: Counts, dropped: int = 0, seed: int = 0) -> Mapping[str, Score]:
    """Compute ODS and OIS F, each with its 95 % percentile-bootstrap interval over pictures.

    "ODS" (optimal data set scale) sums the pixels of all pictures and takes the best common threshold; "OIS"
    (optimal image scale) takes every picture at its own best threshold and sums then. F = 2 · pairs / (predicted +
    annotated), which is the harmonic mean of precision and recall because pairs are one to one.

    Args:
        counts: `[N, T, 3]`, one `boundary_counts` for each picture.
        dropped: pictures that could not be counted.
        seed: of the resampling; the same gives the same intervals.
    """
    pictures = len(counts)
    if pictures == 0:
        return dict.fromkeys(("ODS", "OIS"), Score.undefined(dropped))
    weights = resample_counts(pictures, seed)
    common = f_score((weights @ counts.reshape(pictures, -1)).reshape(len(weights), *counts.shape[1:])).max(1)
    best = f_score(counts).argmax(1)
    own = f_score(weights @ counts[np.arange(pictures), best])
    return {name: percentile_score(f[0], f[1:], pictures, dropped) for name, f in (("ODS", common), ("OIS", own))}


def f_score(counts: Counts) -> NDArray[np.float64]:
    """Compute F of `[..., 3]` counts; 0 where there is neither a predicted nor an annotated pixel."""
    pairs, predicted, actual = np.moveaxis(counts, -1, 0)
    f: NDArray[np.float64] = 2 * pairs / np.maximum(predicted + actual, 1)
    return f


def _pairs(predicted: Counts, actual: Counts, distance: float) -> int:
    """Return the size of the largest one-to-one matching of pixels that are at most `distance` apart."""
    if len(predicted) == 0 or len(actual) == 0:
        return 0
    near = cKDTree(predicted).sparse_distance_matrix(cKDTree(actual), distance + 1e-9, output_type="coo_matrix")
    near.data[:] = 1  # a distance of 0 is a pair, not a missing entry
    return int((maximum_bipartite_matching(near.tocsr(), perm_type="column") >= 0).sum())
