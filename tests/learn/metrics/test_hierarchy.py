"""Trees and graded retrieval: golden numbers, a pair-by-pair reference, and equality with torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_normalized_dcg

from galleria.learn.metrics.hierarchy import (
    MAX_RANKED_RESULTS,
    average_hierarchical_precision,
    hierarchical_average_precision,
    hierarchical_precision,
    hierarchical_retrieval,
    level_consistency,
    normalized_discounted_gain,
    shared_levels,
)
from galleria.learn.metrics.retrieval import retrieval
from galleria.learn.metrics.score import bootstrap
from galleria.learn.metrics.trees import full_names, padded, tree_of

GOLDEN = [
    ([2, 2, 1, 0, 1], 0.966667, 0.992475, 0.966667, 0.766667),
    ([2, 1, 2, 0, 1], 0.911111, 0.947508, 0.916667, 0.716667),
    ([0, 1, 1, 2, 2], 0.561111, 0.615358, 0.463333, 0.363333),
]


def ranked(*levels: int) -> np.ndarray:
    return np.array([levels])


class TestTree:
    def test_classes_have_full_names_and_parents(self):
        tree = tree_of([("food", "fruit"), ("things", "red"), ("food", "bread"), ("food", "fruit")], 2)

        assert tree.names == (("food", "things"), ("food/bread", "food/fruit", "things/red"))
        assert tree.parents == ((0, 0), (0, 0, 1))

    def test_same_word_in_two_branches_is_two(self):
        tree = tree_of([("women", "shoes"), ("men", "shoes")], 2)

        assert tree.names[1] == ("men/shoes", "women/shoes")
        assert tree.parents[1] == (0, 1)

    def test_short_branch_repeats_last_category(self):
        tree = tree_of([("a",), ("b", "c"), ("b", "d", "e")], 3)

        assert padded(("b", "c"), 3) == ("b", "c", "c")
        assert tree.names == (("a", "b"), ("a/a", "b/c", "b/d"), ("a/a/a", "b/c/c", "b/d/e"))
        assert tree.parents == ((0, 0), (0, 1, 1), (0, 1, 2))

    def test_slash_in_name_makes_no_level(self):
        assert full_names(("a/b", "c"))[-1] != full_names(("a", "b/c"))[-1]
        assert full_names(("a\\", "b"))[-1] != full_names(("a/b",))[-1]

    @pytest.mark.parametrize("path", [(), ("a", "b", "c")])
    def test_padded_asserts_fitting_path(self, path):
        with pytest.raises(AssertionError):
            padded(path, 2)


class TestSharedLevels:
    def test_paths_share_common_prefix_only(self):
        paths = torch.tensor([[1, 10, 100]])
        others = torch.tensor([[1, 10, 100], [1, 10, 101], [1, 11, 100], [2, 10, 100]])

        assert shared_levels(paths, others).tolist() == [[3, 2, 1, 0]]

    def test_unknown_class_never_matches(self):
        paths = torch.tensor([[1, -1], [-1, -1]])

        assert shared_levels(paths, paths).tolist() == [[1, 0], [0, 0]]


class TestGoldenNumbers:
    @pytest.mark.parametrize(("levels", "h_ap", "ndcg", "ahp", "trapezoid"), GOLDEN)
    def test_graded_metrics(self, levels, h_ap, ndcg, ahp, trapezoid):
        table = ranked(*levels)

        assert hierarchical_average_precision(table, 2)[0] == pytest.approx(h_ap, abs=1e-6)
        assert normalized_discounted_gain(table)[0] == pytest.approx(ndcg, abs=1e-6)
        assert average_hierarchical_precision(table, 2, 5)[0] == pytest.approx(ahp, abs=1e-6)
        assert average_hierarchical_precision(table, 2, 5, barz_compatible=True)[0] == pytest.approx(
            trapezoid, abs=1e-6
        )

    def test_binary_levels_give_average_precision(self):
        assert hierarchical_average_precision(ranked(1, 0, 1, 1, 0), 1)[0] == pytest.approx(0.805556, abs=1e-6)

    def test_leaf_level_alone(self):
        leaf = (ranked(2, 1, 2, 0, 1) == 2).astype(np.int64)
        keys = torch.from_numpy(leaf[0])
        found = retrieval(torch.ones(1, 1), torch.tensor([1]), torch.linspace(1, 0.1, 5)[:, None], keys)

        assert hierarchical_average_precision(leaf, 1)[0] == pytest.approx(0.833333, abs=1e-6)
        assert found.values["mAP@R"][0] == 0.5


class TestPrecision:
    def test_worked_by_hand(self):
        # similarities ½, 1, 0 of L = 2; the best order 1, ½, 0 sums to 1, 1.5, 1.5
        assert hierarchical_precision(ranked(1, 2, 0), 2, 3)[0].tolist() == [0.5, 1, 1]

    def test_perfect_ranking_scores_one(self):
        table = ranked(2, 2, 1, 1, 0, 0)

        assert average_hierarchical_precision(table, 2, 4)[0] == 1
        assert average_hierarchical_precision(table, 2, 4, barz_compatible=True)[0] == 0.75

    def test_ranking_may_be_shorter_than_k(self):
        assert average_hierarchical_precision(ranked(2, 1), 2, 10)[0] == 1
        assert np.isnan(average_hierarchical_precision(np.zeros((1, 0), np.int64), 2, 10)[0])

    def test_consistency_is_share_of_first_k(self):
        table = ranked(2, 0, 1, 2, 1)

        assert level_consistency(table, 1, 4)[0] == 3 / 4
        assert level_consistency(table, 2, 4)[0] == 2 / 4
        assert level_consistency(table, 1, 10)[0] == 4 / 5

    def test_query_without_relatives_has_no_value(self):
        table = np.array([[0, 0, 0], [1, 1, 0]])

        for values in (
            hierarchical_average_precision(table, 2),
            average_hierarchical_precision(table, 2, 3),
            normalized_discounted_gain(table),
            level_consistency(table, 1, 3),
        ):
            assert np.isnan(values).tolist() == [True, False]
        assert np.isnan(level_consistency(table, 2, 3)).all()

    def test_padding_of_a_ranking_is_ignored(self):
        short, longer = ranked(2, 0, 1), ranked(2, 0, 1, -1, -1)

        for metric in (hierarchical_average_precision, lambda levels, _: normalized_discounted_gain(levels)):
            assert metric(short, 2) == metric(longer, 2)
        assert level_consistency(short, 1, 5) == level_consistency(longer, 1, 5) == 2 / 3


def pair_by_pair(levels: list[int], depth: int, alpha: float) -> float:
    """H-AP as the formula reads."""
    relevance = [(level / depth) ** alpha / levels.count(level) if level else 0.0 for level in levels]
    total = 0.0
    for k, mine in enumerate(relevance):
        rank = mine + sum(min(mine, before) for before in relevance[:k])
        total += rank / (k + 1)
    return total / sum(relevance)


RANKINGS = st.lists(st.integers(0, 4), min_size=1, max_size=30).filter(any)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(levels=RANKINGS, alpha=st.sampled_from([0.5, 1.0, 2.0]))
def test_h_ap_equals_pairwise_formula(levels, alpha):
    found = hierarchical_average_precision(ranked(*levels), 4, alpha)[0]

    assert found == pytest.approx(pair_by_pair(levels, 4, alpha))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(levels=RANKINGS)
def test_ndcg_and_ap_equal_torchmetrics(levels):
    order = torch.linspace(1, 0.1, len(levels))
    gains = torch.tensor([2.0**level - 1 for level in levels])
    binary = [min(level, 1) for level in levels]

    assert normalized_discounted_gain(ranked(*levels))[0] == pytest.approx(
        float(retrieval_normalized_dcg(order, gains)), abs=1e-5
    )
    assert hierarchical_average_precision(ranked(*binary), 1)[0] == pytest.approx(
        float(retrieval_average_precision(order, torch.tensor(binary))), abs=1e-5
    )


@settings(deadline=None, max_examples=100, derandomize=True)
@given(levels=RANKINGS)
def test_best_order_scores_one(levels):
    for metric in (lambda table: average_hierarchical_precision(table, 4, 10), normalized_discounted_gain):
        best, found = metric(ranked(*sorted(levels, reverse=True)))[0], metric(ranked(*levels))[0]
        assert best == pytest.approx(1)
        assert 0 <= found <= best <= 1
    assert 0 < hierarchical_average_precision(ranked(*levels), 4)[0] <= 1


class TestRetrieval:
    PATHS = torch.tensor([[1, 10], [1, 11], [2, 20], [1, 10]])
    VECTORS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])

    def test_rankings_are_by_inner_product(self):
        found = hierarchical_retrieval(self.VECTORS[:1], self.PATHS[:1], self.VECTORS, self.PATHS, k=2).values

        expected = ranked(2, 1, 0, 2)
        assert found["CC_1@2"][0] == 1
        assert found["CC_2@2"][0] == 0.5
        assert found["H-AP"] == hierarchical_average_precision(expected, 2)
        assert found["AHP@2"] == average_hierarchical_precision(expected, 2, 2)
        assert found["NDCG"] == normalized_discounted_gain(expected)

    def test_query_never_retrieves_itself(self):
        found = hierarchical_retrieval(self.VECTORS, self.PATHS, self.VECTORS, self.PATHS, torch.arange(4), k=3)

        expected = hierarchical_average_precision(ranked(1, 0, 2), 2)[0]
        assert found.values["H-AP"][0] == pytest.approx(expected)
        assert np.isnan(found.values["H-AP"]).tolist() == [False, False, True, False]
        assert found.dropped == 1

    def test_some_queries_may_be_in_gallery(self):
        same = torch.tensor([0, -1])

        found = hierarchical_retrieval(self.VECTORS[[0, 0]], self.PATHS[[0, 0]], self.VECTORS, self.PATHS, same, k=4)

        assert found.values["CC_1@4"].tolist() == [2 / 3, 3 / 4]

    def test_chunks_change_nothing(self):
        generator = torch.Generator().manual_seed(0)
        gallery, count = torch.randn(20_000, 4, generator=generator), 250
        paths = torch.randint(0, 3, (len(gallery), 3), generator=generator)
        queries, itself = gallery[:count], torch.arange(count)
        assert MAX_RANKED_RESULTS // len(gallery) < count, "one chunk holds them all: nothing is tested"

        whole = hierarchical_retrieval(queries, paths[:count], gallery, paths, itself)

        assert whole.dropped == 0
        for some in (slice(0, 90), slice(90, 180), slice(180, count)):
            part = hierarchical_retrieval(queries[some], paths[:count][some], gallery, paths, itself[some])
            for name, values in part.values.items():
                assert np.array_equal(values, whole.values[name][some]), name

    @pytest.mark.parametrize(("queries", "gallery"), [(0, 4), (3, 0), (0, 0)])
    def test_empty_side_gives_no_values(self, queries, gallery):
        found = hierarchical_retrieval(
            self.VECTORS[:queries], self.PATHS[:queries], self.VECTORS[:gallery], self.PATHS[:gallery]
        )

        assert set(found.values) == {"CC_1@10", "CC_2@10", "H-AP", "AHP@10", "NDCG"}
        assert all(len(values) == queries and np.isnan(values).all() for values in found.values.values())
        assert bootstrap(found.values["H-AP"]).count == 0
