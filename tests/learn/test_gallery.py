"""Queries and galleries: which rows ask, which are ranked, and scores apart by source."""

import numpy as np
import pytest
import torch

from galleria.errors import DataError
from galleria.learn.family import index_by_name
from galleria.learn.gallery import has_positive, ranked_columns, scores_by_source, sides
from galleria.learn.gallery_rows import ROLES, gallery_columns, stable_key

LABELS = {"source": ("", "studio")}


def test_gallery_columns_are_integers():
    made = gallery_columns({"product_id": "p", "source": "studio", "role": "query"}, LABELS)

    assert made == {"product": stable_key("p"), "source": 1, "role": ROLES.index("query")}
    assert all(value.dtype == np.int64 for value in made.values())


def test_missing_role_and_source_have_defaults():
    assert gallery_columns({"product_id": "p"}, LABELS)["role"] == ROLES.index("both")
    assert gallery_columns({"product_id": "p"}, LABELS)["source"] == 0
    assert gallery_columns({"product_id": "p", "source": "new"}, LABELS)["source"] == -1


def test_unknown_role_is_rejected():
    with pytest.raises(DataError, match="role 'shown' is unknown: use 'query', 'gallery'"):
        gallery_columns({"product_id": "p", "role": "shown"}, LABELS)


def test_stable_key_is_reproducible():
    assert stable_key("p") == 484535939939021967


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["query", "gallery"], True),
        ([None, None], True),
        ([None, "gallery"], True),
        (["query", None], True),
        ([None], False),
        (["query", "query"], False),
        (["gallery", "gallery"], False),
        ([], False),
    ],
)
def test_has_positive_needs_another_picture(roles, expected):
    others = [{"product_id": "a", "role": "query"}, {"product_id": "b", "role": "gallery"}, {"product_id": "c"}]
    rows = [{"product_id": "p", "role": role} for role in roles]

    assert has_positive([*others, *rows]) == expected


def test_index_by_name_keeps_order():
    assert index_by_name(("b", "a")) == {"b": 0, "a": 1}


def test_index_by_name_is_made_once():
    class Name(str):
        hashed = 0

        def __hash__(self) -> int:
            Name.hashed += 1
            return super().__hash__()

    names = tuple(Name(number) for number in range(1000))

    indices = [index_by_name(names) for _ in range(5)]

    assert all(index is indices[0] for index in indices)
    assert Name.hashed == 1000
    assert index_by_name(tuple(names[:2])) == {"0": 0, "1": 1}


def test_columns_join_batches_and_outputs():
    batches = [
        ({"role": torch.tensor([0, 1]), "pixels": torch.zeros(2, 3)}, {"embedding": torch.tensor([[1.0], [2.0]])}),
        ({"role": torch.tensor([2]), "evaluated": torch.tensor([False])}, {"embedding": torch.tensor([[3.0]])}),
    ]

    table = ranked_columns(batches, ("role", "product"))

    assert table.keys() == {"role", "evaluated", "embedding"}
    assert table["evaluated"].tolist() == [True, True, False]
    assert table["embedding"].flatten().tolist() == [1, 2, 3]
    assert ranked_columns([], ("role",)) == {}


def test_sides_follow_roles():
    table = {"role": torch.tensor([0, 1, 2, 0]), "evaluated": torch.tensor([True, True, True, False])}

    found = sides(table)

    assert found.queries.tolist() == [True, True, False, False]
    assert found.gallery.tolist() == [True, False, True, True]
    assert found.same_row.tolist() == [0, -1]  # the first is in the gallery, at its head; the second is not


def test_scores_cover_all_and_each_source():
    values = {"R@1": np.array([1.0, 0.0, np.nan])}

    scores = scores_by_source(values, torch.tensor([1, 0, 1]), ("", "studio", "customer"))

    assert {name: score.value for name, score in scores.items()} == {"R@1": 0.5, "studio/R@1": 1}
    assert (scores["R@1"].dropped, scores["studio/R@1"].dropped) == (1, 1)
