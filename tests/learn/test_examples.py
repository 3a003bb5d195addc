"""Rows become batches: in order, bad ones reported and left out, augmentation the same whoever does it."""

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from galleria.errors import DataError, GalleriaError
from galleria.families.text_guided.recipes import debug
from galleria.learn.examples import Examples, stack
from galleria.learn.family import Context, Family, load_family
from galleria.learn.training.augmentation import Augmentation
from tests.drawings import product_rows
from tests.learn.tiny import Line, LineConfig


def number(row, context, generator):
    """A family's `example` that knows numbers only."""
    if row["number"] < 0:
        raise DataError(f"{row['number']} is negative: use 0 or more")
    if row["number"] > 99:
        raise GalleriaError("a fault of the whole run")
    return {"number": np.int64(row["number"]), "noise": np.float64(generator.random() if generator else 0)}


NUMBERS = Family(
    name="numbers",
    config=LineConfig,
    schema=pa.schema([]),
    context=lambda config, _: Context(config),
    build=Line,
    example=number,
    evaluate=lambda *_: {},
    present=lambda *_: {},
)


def numbered(*numbers: int) -> list[dict]:
    return [{"id": f"n{value}", "number": value} for value in numbers]


def stream(groups, seed=None, threads=2) -> tuple[list[dict], list[tuple[str, str]]]:
    rejected: list[tuple[str, str]] = []
    examples = Examples(
        NUMBERS, Context(LineConfig()), threads, lambda row, reason: rejected.append((row["id"], reason))
    )
    return list(examples.stream(groups, seed)), rejected


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_and_rows_keep_order(threads):
    batches, _ = stream([numbered(3, 1, 2), numbered(9), numbered(*range(40))], threads=threads)

    assert [batch["number"].tolist() for batch in batches] == [[3, 1, 2], [9], list(range(40))]


def test_bad_row_is_rejected_with_reason():
    batches, rejected = stream([numbered(1, -2, 3), numbered(4)])

    assert [batch["number"].tolist() for batch in batches] == [[1, 3], [4]]
    assert rejected == [("n-2", "-2 is negative: use 0 or more")]


def test_rejected_row_frees_its_memory():
    pictures: list[weakref.ref] = []

    def decode(*_):
        picture = np.zeros(10)
        pictures.append(weakref.ref(picture))
        raise DataError("damaged") from ValueError(len(picture))

    gc.disable()
    try:
        list(
            Examples(replace(NUMBERS, example=decode), Context(LineConfig()), 2, lambda *_: None).stream([numbered(1)])
        )
        assert [picture() for picture in pictures] == [None]
    finally:
        gc.enable()


def test_batch_of_bad_rows_is_left_out():
    batches, rejected = stream([numbered(-1, -2), numbered(5), []])

    assert [batch["number"].tolist() for batch in batches] == [[5]]
    assert len(rejected) == 2


def test_other_errors_end_the_stream():
    with pytest.raises(GalleriaError, match="whole run"):
        stream([numbered(1), numbered(100)])


def test_stream_reads_one_group_ahead():
    read: list[int] = []

    def groups() -> Iterator[list[dict]]:
        for value in range(10):
            read.append(value)
            yield numbered(value)

    first = next(Examples(NUMBERS, Context(LineConfig()), 1, lambda *_: None).stream(groups()))

    assert (first["number"].tolist(), read) == ([0], [0, 1])


def test_different_shapes_are_rejected():
    ragged = replace(NUMBERS, example=lambda row, *_: {"x": np.zeros(row["number"])})
    with pytest.raises(ValueError, match="one example has shapes"):
        list(Examples(ragged, Context(LineConfig()), 1, lambda *_: None).stream([numbered(1, 2)]))


def test_each_row_is_made_once():
    made: list[int] = []
    counting = replace(NUMBERS, example=lambda row, *_: made.append(row["number"]) or {"number": np.int64(0)})

    list(Examples(counting, Context(LineConfig()), 8, lambda *_: None).stream([numbered(*range(500)), numbered(500)]))

    assert sorted(made) == list(range(501))


def test_threads_share_one_batch():
    together = threading.Barrier(3, timeout=30)
    meeting = replace(NUMBERS, example=lambda *_: {"number": np.int64(together.wait())})

    batches = list(Examples(meeting, Context(LineConfig()), 3, lambda *_: None).stream([numbered(1, 2, 3)]))

    assert sorted(batches[0]["number"].tolist()) == [0, 1, 2]


def test_abandoned_stream_leaves_no_thread():
    before = threading.active_count()
    batches = Examples(NUMBERS, Context(LineConfig()), 4, lambda *_: None).stream(
        numbered(value) for value in range(99)
    )
    next(batches)
    batches.close()

    assert threading.active_count() == before


def test_randomness_depends_on_seed_and_id():
    one, _ = stream([numbered(*range(20))], seed=(0, 1), threads=1)
    four, _ = stream([numbered(*reversed(range(20)))], seed=(0, 1), threads=4)
    other, _ = stream([numbered(*range(20))], seed=(0, 2))

    assert one[0]["noise"].tolist() == four[0]["noise"].flip(0).tolist()
    assert len(set(one[0]["noise"].tolist())) == 20
    assert not set(one[0]["noise"].tolist()) & set(other[0]["noise"].tolist())


def test_views_of_row_are_random_apart():
    row = numbered(5)[0]
    [batch], _ = stream([[row, {**row, "view": 1}, {**row, "view": 2}, row]], seed=(0, 1))

    first, *others, again = batch["noise"].tolist()
    assert first == again
    assert len({first, *others}) == 3


def test_no_seed_is_not_random():
    assert stream([numbered(1, 2)])[0][0]["noise"].tolist() == [0, 0]


def test_augmentation_ignores_thread_count():
    family = load_family("text_guided")
    limits = Augmentation(
        rotation=20,
        shift=0.1,
        smallest=0.7,
        largest=1.3,
        shear=5,
        flip=0.5,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.1,
        grey=0.2,
        blur=0.2,
    )
    rows = product_rows(6)
    context = family.context(debug().model.model_copy(update={"augmentation": limits, "text": None}), rows)

    def pixels(threads: int, seed: tuple[int, ...] | None) -> torch.Tensor:
        examples = Examples(family, context, threads, lambda _, reason: pytest.fail(reason))
        return torch.cat([batch["pixels"] for batch in examples.stream([rows[:5], rows[5:]], seed)])

    assert torch.equal(pixels(1, (0, 3)), pixels(4, (0, 3)))
    assert not torch.equal(pixels(1, (0, 3)), pixels(1, (0, 4)))
    assert torch.equal(pixels(1, None), pixels(4, None))
    assert (pixels(1, None) != pixels(1, (0, 3))).flatten(1).any(1).all()


def test_stack_keeps_types():
    batch = stack(
        [{"a": np.zeros((2, 3), np.uint8), "b": np.int64(1)}, {"a": np.ones((2, 3), np.uint8), "b": np.int64(2)}]
    )

    assert (batch["a"].shape, batch["a"].dtype) == ((2, 2, 3), torch.uint8)
    assert batch["b"].tolist() == [1, 2]
