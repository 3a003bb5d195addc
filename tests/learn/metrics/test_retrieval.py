"""Retrieval metrics agree with hand-worked numbers and with the field's libraries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torchmetrics.functional.retrieval import retrieval_hit_rate

from galleria.learn.metrics.retrieval import retrieval
from galleria.learn.metrics.score import bootstrap
from galleria.learn.metrics.similarity import QUERIES_PER_CHUNK


def ranked(relevant: list[int]) -> dict[str, float]:
    """Scores of one query whose ranked results are relevant (1) or not (0)."""
    gallery = torch.linspace(1, 0.1, len(relevant))[:, None]
    keys = torch.tensor([7 if hit else 100 + index for index, hit in enumerate(relevant)])
    found = retrieval(torch.ones(1, 1), torch.tensor([7]), gallery, keys, ranks=(1, 2, 5))
    return {name: float(values[0]) for name, values in found.values.items()}


@pytest.mark.parametrize(
    ("relevant", "first", "first_two", "map_at_r"),
    [
        ([1, 0, 0, 0], 1, 1, 1),  # R = 1: only the first hit counts
        ([0, 1, 0, 0], 0, 1, 0),
        ([1, 0, 1, 0, 0], 1, 1, 1 / 2),  # R = 2: (1/1 + 0) / 2
        ([0, 1, 1, 0], 0, 1, 1 / 4),  # (0 + 1/2) / 2
        ([1, 0, 1, 1, 0], 1, 1, 5 / 9),  # R = 3: (1/1 + 0 + 2/3) / 3
        ([0, 0, 1, 1, 1], 0, 0, 1 / 9),  # (0 + 0 + 1/3) / 3
        ([1, 1, 1], 1, 1, 1),
    ],
)
def test_rankings_worked_by_hand(relevant, first, first_two, map_at_r):
    scores = ranked(relevant)

    assert (scores["R@1"], scores["R@2"], scores["R@5"]) == (first, first_two, 1)
    assert scores["mAP@R"] == pytest.approx(map_at_r)


def test_query_never_retrieves_itself():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    keys = torch.tensor([1, 2, 1])

    with_itself = retrieval(vectors, keys, vectors, keys)
    without = retrieval(vectors, keys, vectors, keys, same_row=torch.arange(3))

    assert with_itself.values["R@1"].tolist() == [1, 1, 1]
    assert without.values["R@1"][[0, 2]].tolist() == [1, 0]  # row 2 finds row 1 (.8) before row 0 (.6)
    assert (math.isnan(without.values["R@1"][1]), without.dropped) == (True, 1)  # nothing else has key 2


def test_same_row_minus_one_excludes_nothing():
    vectors = torch.eye(2)
    keys = torch.tensor([1, 2])

    found = retrieval(vectors, keys, vectors, keys, same_row=torch.tensor([-1, 1]))

    assert found.values["R@1"][0] == 1
    assert found.dropped == 1


def test_query_without_positive_is_dropped():
    found = retrieval(torch.eye(3), torch.tensor([1, 2, 3]), torch.eye(3), torch.tensor([1, 9, 9]))

    assert found.dropped == 2
    assert np.isnan(found.values["mAP@R"]).tolist() == [False, True, True]
    assert bootstrap(found.values["mAP@R"]).count == 1


@pytest.mark.parametrize("queries", [0, 3])
def test_empty_side_gives_no_values(queries):
    found = retrieval(torch.ones(queries, 2), torch.arange(queries), torch.ones(0, 2), torch.arange(0))

    assert found.dropped == queries
    assert bootstrap(found.values["R@1"]).count == 0


def test_gallery_may_be_smaller_than_k():
    assert retrieval(torch.eye(2), torch.tensor([1, 2]), torch.eye(2), torch.tensor([1, 2])).values[
        "R@10"
    ].tolist() == [
        1,
        1,
    ]


def drawn(seed: int, queries: int, gallery: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(queries + gallery, 6, generator=generator), dim=1)
    keys = torch.randint(0, 12, (queries + gallery,), generator=generator)
    return unit[:queries], keys[:queries], unit[queries:], keys[queries:]


def test_chunks_change_nothing():
    size = QUERIES_PER_CHUNK
    queries, query_keys, gallery, gallery_keys = drawn(0, 2 * size + 3, 50)
    itself = torch.arange(len(queries)) % 50

    whole = retrieval(queries, query_keys, gallery, gallery_keys, same_row=itself)

    rows = torch.randperm(len(queries), generator=torch.Generator().manual_seed(1))
    for some in rows.split(100):
        part = retrieval(queries[some], query_keys[some], gallery, gallery_keys, same_row=itself[some])
        for name, values in part.values.items():
            assert np.array_equal(values, whole.values[name][some.numpy()], equal_nan=True)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_hits_equal_torchmetrics(k):
    queries, query_keys, gallery, gallery_keys = drawn(k, 40, 60)
    found = retrieval(queries, query_keys, gallery, gallery_keys)
    for query, key, value in zip(queries, query_keys, found.values[f"R@{k}"], strict=True):
        expected = retrieval_hit_rate(gallery @ query, gallery_keys == key, top_k=k)
        assert value == expected


@settings(deadline=None, max_examples=25, derandomize=True)
@given(seed=st.integers(0, 10_000), leave_one_out=st.booleans())
def test_means_equal_pytorch_metric_learning(seed, leave_one_out):
    queries, query_keys, gallery, gallery_keys = drawn(seed, 30, 40)
    same_row = None
    if leave_one_out:
        queries, query_keys, same_row = gallery, gallery_keys, torch.arange(40)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )

    expected = calculator.get_accuracy(queries, query_keys, gallery, gallery_keys, leave_one_out)

    found = retrieval(queries, query_keys, gallery, gallery_keys, same_row=same_row).values
    assert np.nanmean(found["R@1"]) == pytest.approx(expected["precision_at_1"])
    assert np.nanmean(found["mAP@R"]) == pytest.approx(expected["mean_average_precision_at_r"])
