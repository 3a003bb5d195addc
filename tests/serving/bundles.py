"""Small bundles of random weights, one of any family, made as its debug recipe says from its contract rows."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from galleria.learn.bundle import Bundle, save_bundle
from galleria.learn.examples import stack
from galleria.learn.family import load_family
from galleria.learn.recipes import load_recipe
from galleria.learn.task import Row


def random_bundle(name: str, path: Path, rows: Sequence[Row] | None = None, seed: int = 0) -> Bundle:
    """A bundle of family `name` with random weights, for its contract rows or others."""
    family = load_family(name)
    context = family.context(load_recipe(name, "debug").model, contract_rows(name) if rows is None else rows)
    torch.manual_seed(seed)
    return save_bundle(path, family, context, family.build(context.config).eval(), {}, "# A bundle for tests\n")


def contract_rows(name: str) -> list[Row]:
    rows: list[Row] = importlib.import_module(f"tests.families.test_{name}").contract_rows("train")
    return rows


def presented(bundle: Bundle, row: Row) -> dict[str, Any]:
    """Return the bundle's own answer for a row, by `example`, `predict` and `present` alone.

    On one thread: more of them add in another order, and the last bits differ.
    """
    family, context = bundle.family, bundle.context
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outputs = bundle.task().predict(stack([family.example(row, context, None)]))
    torch.set_num_threads(threads)
    return dict(family.present({key: value[0].numpy() for key, value in outputs.items()}, context.labels))


def assert_near(actual: Any, expected: Any) -> None:
    """Compare answers, but for the last digits: another runtime adds in another order."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_near(actual[name], value)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_near(one, other)
    else:
        assert actual == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)
