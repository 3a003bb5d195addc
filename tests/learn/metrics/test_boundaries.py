"""ODS and OIS F: worked by hand, and matched against an exhaustive assignment."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from galleria.learn.metrics.boundaries import THRESHOLDS, boundary_counts, boundary_scores, f_score

SIDE = 12


def line(column: int, side: int = SIDE) -> np.ndarray:
    drawn = np.zeros((side, side), bool)
    drawn[:, column] = True
    return drawn


def counted(predicted: np.ndarray, contour: np.ndarray) -> list[int]:
    counts = boundary_counts(predicted.astype(np.float32), contour)
    assert (counts == counts[0]).all()  # a prediction of 0 and 1 is the same at every threshold
    return counts[0].tolist()


def test_exact_prediction_pairs_every_pixel():
    assert counted(line(5), line(5)) == [SIDE, SIDE, SIDE]


@pytest.mark.parametrize(("column", "pairs"), [(6, SIDE), (4, SIDE), (7, 0), (3, 0)])
def test_small_picture_allows_one_pixel(column, pairs):
    assert counted(line(column), line(5)) == [pairs, SIDE, SIDE]


@pytest.mark.parametrize(("column", "pairs"), [(52, 200), (53, 0)])
def test_large_picture_allows_tolerance(column, pairs):
    # .0075 · 200 · √2 = 2.12 pixels
    assert counted(line(column, 200), line(50, 200))[0] == pairs


def test_pixel_is_paired_once():
    double = line(4) | line(6)

    assert counted(double, line(5)) == [SIDE, 2 * SIDE, SIDE]
    assert counted(line(5), double) == [SIDE, SIDE, 2 * SIDE]


def test_thick_lines_are_thinned():
    thick = line(4) | line(5) | line(6)

    pairs, predicted, actual = counted(thick, thick)

    assert SIDE - 2 <= pairs == predicted == actual <= SIDE


def test_thresholds_separate_strong_and_faint():
    probabilities = np.where(line(2), 0.9, np.where(line(8), 0.3, 0.0))

    counts = boundary_counts(probabilities, line(2))

    assert counts[:, 0].tolist() == [SIDE if threshold <= 0.9 else 0 for threshold in THRESHOLDS]
    assert counts[:, 1].tolist() == [SIDE * (int(t <= 0.9) + int(t <= 0.3)) for t in THRESHOLDS]


def test_empty_sides_have_no_pairs():
    empty = np.zeros((SIDE, SIDE), bool)

    assert counted(empty, line(5)) == [0, 0, SIDE]
    assert counted(line(5), empty) == [0, SIDE, 0]
    assert f_score(np.array([0, 0, 0])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_pairs_equal_best_assignment(seed):
    generator = np.random.default_rng(seed)
    one, other = (np.zeros((30, 30), bool) for _ in range(2))
    for drawn in (one, other):  # pixels apart, so that thinning leaves them alone
        drawn[tuple(2 * generator.integers(0, 15, (2, 60)))] = True
    one = np.roll(one, 1, axis=0)

    far = np.linalg.norm(np.argwhere(one)[:, None] - np.argwhere(other)[None], axis=2) > 1
    rows, columns = linear_sum_assignment(far)

    assert counted(one, other)[0] == (~far[rows, columns]).sum() > 10


COUNTS = np.array([[[10, 10, 10], [5, 5, 10]], [[10, 30, 10], [8, 8, 10]]])


def test_ods_and_ois_choose_thresholds():
    scores = boundary_scores(COUNTS)

    # Common: 2·20 / (40 + 20) or 2·13 / (13 + 20). Own: the first threshold and the second, 2·18 / (18 + 20).
    assert scores["ODS"].value == pytest.approx(26 / 33)
    assert scores["OIS"].value == pytest.approx(36 / 38)


def test_interval_resamples_pictures():
    counts = np.random.default_rng(1).integers(1, 20, (8, 3, 3)) * [1, 2, 2]
    drawn = np.random.default_rng(4).multinomial(8, np.full(8, 1 / 8), 1000)
    again = [boundary_value(np.repeat(counts, times, axis=0)) for times in drawn]

    score = boundary_scores(counts, dropped=3, seed=4)["ODS"]

    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(again, (2.5, 97.5))))
    assert (score.count, score.dropped) == (8, 3)
    assert score.low < score.value < score.high


def boundary_value(counts: np.ndarray) -> float:
    return float(max(2 * pairs / (predicted + actual) for pairs, predicted, actual in counts.sum(0)))


def test_no_pictures_give_nan():
    score = boundary_scores(np.array([], np.int64), dropped=2)["OIS"]

    assert np.isnan(score.value)
    assert (score.count, score.dropped) == (0, 2)
