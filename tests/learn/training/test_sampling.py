"""Training batches: of one size, each row once, groups side by side, the same again for a seed."""

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import ConfigurationError
from galleria.learn.recipe import Sampling
from galleria.learn.training.sampling import deal, training_batches


def rows(count: int, per_product: int = 3) -> list[dict]:
    return [{"id": index, "product": index // per_product} for index in range(count)]


def order(count: int, sampling: Sampling, seed: int = 0, per_product: int = 3) -> list[int]:
    batches = training_batches(rows(count, per_product), sampling, np.random.default_rng(seed))
    return [row["id"] for batch in batches for row in batch]


samplings = st.builds(
    Sampling,
    batch_size=st.integers(1, 9),
    group=st.sampled_from([None, "product"]),
    group_size=st.integers(1, 4),
    buffer=st.integers(1, 60),
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(count=st.integers(0, 80), sampling=samplings, seed=st.integers(0, 99))
def test_batches_are_full_and_last_is_dropped(count, sampling, seed):
    batches = list(training_batches(rows(count), sampling, np.random.default_rng(seed)))

    assert [len(batch) for batch in batches] == [sampling.batch_size] * (count // sampling.batch_size)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(count=st.integers(0, 80), sampling=samplings, seed=st.integers(0, 99))
def test_rows_come_once_with_any_buffer(count, sampling, seed):
    seen = order(count, sampling, seed)

    assert len(set(seen)) == len(seen) == count - count % sampling.batch_size


def test_views_of_row_are_neighbours():
    sampling = Sampling(batch_size=4, views=2, buffer=5)

    batches = list(training_batches(rows(12), sampling, np.random.default_rng(0)))

    assert sorted(row["id"] for batch in batches for row in batch) == sorted([*range(12), *range(12)])
    for batch in batches:
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert second == {**first, "view": 1}


@pytest.mark.parametrize("buffer", [1, 2, 7, 1000])
def test_dropped_rows_differ_by_epoch(buffer):
    sampling = Sampling(batch_size=7, buffer=buffer)

    dropped = {frozenset(range(27)) - frozenset(order(27, sampling, seed)) for seed in range(20)}

    assert len(dropped) > 1
    assert {len(rest) for rest in dropped} == {27 % 7}


@settings(deadline=None, max_examples=80, derandomize=True)
@given(group_size=st.integers(1, 4), per_product=st.integers(1, 9), seed=st.integers(0, 99))
def test_groups_come_in_runs_of_group_size(group_size, per_product, seed):
    sampling = Sampling(batch_size=1, group="product", group_size=group_size)
    seen = order(60, sampling, seed, per_product)

    runs = [len(list(members)) for _, members in groupby(seen, lambda row: row // per_product)]

    short = sum(length % group_size != 0 for length in runs)
    assert short <= -(-60 // per_product)  # at most one rest for each product
    if per_product >= group_size:
        assert max(runs) >= group_size


def test_batches_are_pairs_of_two_row_groups():
    sampling = Sampling(batch_size=8, group="product", group_size=2)
    for batch in training_batches(rows(64, per_product=2), sampling, np.random.default_rng(0)):
        products = [row["product"] for row in batch]
        assert products[::2] == products[1::2]
        assert len(set(products)) == 4


def test_no_group_separates_neighbours():
    seen = order(300, Sampling(batch_size=1))

    assert sum(one // 3 == other // 3 for one, other in pairwise(seen)) < 15


@pytest.mark.parametrize("group", [None, "product"])
def test_order_depends_on_seed(group):
    sampling = Sampling(batch_size=4, group=group, group_size=2, buffer=16)

    assert order(40, sampling, seed=1) == order(40, sampling, seed=1)
    assert order(40, sampling, seed=1) != order(40, sampling, seed=2)


def test_buffer_bounds_rows_read_ahead():
    read = []

    def stream():
        for row in rows(1000):
            read.append(row)
            yield row

    next(training_batches(stream(), Sampling(batch_size=4, buffer=10), np.random.default_rng(0)))

    assert len(read) == 10


def test_unknown_group_column_lists_columns():
    sampling = Sampling(batch_size=4, group="prodct")

    with pytest.raises(ConfigurationError, match=r"'prodct'.*id, product"):
        list(training_batches(rows(10), sampling, np.random.default_rng(0)))


@settings(deadline=None, derandomize=True)
@given(rows=st.integers(1, 200), per_group=st.integers(1, 7), workers=st.integers(2, 5), seed=st.integers(0, 9))
def test_deal_is_equal_and_keeps_groups(rows: int, per_group: int, workers: int, seed: int) -> None:
    groups = np.arange(rows) // per_group
    if rows < workers:
        return

    worker = deal(groups, workers, (seed, 0))

    each, rest = divmod(rows, workers)
    assert np.bincount(worker + 1, minlength=workers + 1).tolist() == [rest, *[each] * workers]
    owners = [set(worker[groups == group]) for group in range(groups.max() + 1)]
    assert sum(len(owner) - 1 for owner in owners) <= workers  # cut where one worker's rows end


def test_deal_differs_by_seed() -> None:
    groups = np.arange(100)

    first, second = (deal(groups, 2, (0, epoch)) for epoch in (0, 1))

    assert (first != second).any()
    assert (first == deal(groups, 2, (0, 0))).all()
    assert (deal(groups, 1, (0, 0)) == 0).all()
