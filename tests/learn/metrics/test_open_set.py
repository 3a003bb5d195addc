"""When a search has found nothing, on galleries that can be worked by hand."""

import numpy as np
import pytest
import torch

from galleria.learn.metrics.open_set import FALSE_MATCHES, no_match


def at(*cosines: float) -> torch.Tensor:
    """Unit vectors with these cosines to the first axis."""
    return torch.tensor([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines], dtype=torch.float64)


def test_score_lies_just_above_strangers():
    gallery = at(0.9, 0.5, 0.3)  # of products 1, 2, 3
    found = no_match(at(1, 1), torch.tensor([1, 2]), gallery, torch.tensor([1, 2, 3]))

    # Without its own product the first query finds .5, the second .9: neither may count as found.
    assert found["no_match/score"].value == pytest.approx(0.9)
    assert found["no_match/score"].value > float(gallery[0, 0].float())
    assert found["no_match/kept"].value == 0  # .9 and .5 are no more than that
    assert found["no_match/score"].count == 2


def test_one_in_twenty_strangers_may_match():
    strangers = np.linspace(0.1, 0.48, 20)
    queries = torch.eye(20, dtype=torch.float64)
    gallery = torch.cat([queries * 0.6, torch.diag(torch.from_numpy(strangers))])
    keys = torch.arange(20)
    found = no_match(queries, keys, gallery, torch.cat([keys, keys + 100]))

    assert (strangers >= found["no_match/score"].value).mean() == FALSE_MATCHES
    assert found["no_match/score"].value == pytest.approx(strangers[-2])
    assert found["no_match/kept"].value == 1
    low, high = found["no_match/score"].low, found["no_match/score"].high
    assert low < found["no_match/score"].value <= high


def test_kept_is_scored_on_other_products():
    # Own pictures are at .5; the nearest stranger of product 0 is at .2, that of product 1 at .7.
    queries = torch.eye(4, dtype=torch.float64)[:2]
    gallery = torch.tensor([[0.5, 0, 0, 0], [0.2, 0, 0, 0], [0, 0.5, 0, 0], [0, 0.7, 0, 0]], dtype=torch.float64)
    found = no_match(queries, torch.tensor([0, 1]), gallery, torch.tensor([0, 8, 1, 9]))

    assert found["no_match/score"].value == pytest.approx(0.7)
    assert found["no_match/kept"].value == 0.5  # the second is over .2, the score of the first; the first under .7


def test_query_is_not_its_own_match():
    vectors = at(1, 0.6, 0.2)
    keys = torch.tensor([1, 1, 2])
    found = no_match(vectors[:1], keys[:1], vectors, keys, same_row=torch.tensor([0]))
    assert found["no_match/score"].value == pytest.approx(0.2)
    assert found["no_match/kept"].value == 1  # its other picture, at .6


def test_chunks_change_nothing():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(2500, 8, generator=generator), torch.randn(300, 8, generator=generator)
    keys, shown = torch.arange(2500) % 150, torch.arange(300) % 150
    whole = no_match(queries, keys, gallery, shown)
    similarity = queries @ gallery.T
    strangers = similarity.masked_fill(keys[:, None] == shown[None], -torch.inf).amax(1)
    assert (strangers.double() >= whole["no_match/score"].value).sum() == int(FALSE_MATCHES * 2500)


@pytest.mark.parametrize("keys", [([1], [1]), ([1], [2]), ([], [1]), ([1], [])])
def test_score_needs_both_kinds_of_hits(keys):
    asking, shown = keys
    queries, gallery = at(*(1.0 for _ in asking)).reshape(-1, 2), at(*(0.5 for _ in shown)).reshape(-1, 2)
    assert (
        no_match(queries, torch.tensor(asking, dtype=torch.int64), gallery, torch.tensor(shown, dtype=torch.int64))
        == {}
    )
