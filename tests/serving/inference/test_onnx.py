"""ONNX Runtime gives PyTorch's values for every family and any number of rows, or is not used."""

import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from galleria.learn.examples import stack
from galleria.learn.task import Signature, Task
from galleria.serving.inference.onnx import TOLERANCE, _cache_folder, faster_execution, one_at_a_time
from tests.drawings import drawing
from tests.serving.bundles import random_bundle

FAMILIES = ("text_guided", "category_tree", "aesthetic_emotion", "contour", "garment_gender")


def eager_of(task):
    return lambda batch: {name: value.numpy() for name, value in task.predict(batch).items()}


class Slow:
    """Eager PyTorch, slowed down so that ONNX is faster on a busy machine too."""

    def __init__(self, task):
        self.eager = eager_of(task)

    def __call__(self, batch):
        time.sleep(0.1)
        return self.eager(batch)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_equal_values(family, tmp_path):
    bundle = random_bundle(family, tmp_path / "bundle")
    task = bundle.task()
    examples = [bundle.family.example({"image": drawing(seed)}, bundle.context, None) for seed in range(9)]
    execution = faster_execution(task, stack(examples[:4]), 1, Slow(task))
    assert execution is not None
    for count in (1, 2, 4, 9):
        batch = stack(examples[:count])
        found, expected = execution(batch), eager_of(task)(batch)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].shape == values.shape
            one, other = (each.reshape(count, -1).astype(np.float64) for each in (found[name], values))
            cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
            assert (1 - cosines).max() < TOLERANCE


class Tiny(Task):
    """Multiplies by a matrix, then calls `more`."""

    def __init__(self, more=lambda values: values):
        super().__init__()
        self.more = more
        self.weight = torch.nn.Parameter(torch.eye(3))

    def forward(self, batch):
        return {"loss": self.predict(batch)["out"].sum()}

    @torch.no_grad()
    def predict(self, batch):
        return {"out": self.more(batch["in"] @ self.weight)}

    def signature(self):
        return Signature(inputs=("in",))

    def parameter_groups(self):
        return {}


def test_large_network_runs_one_batch_at_a_time():
    inside, max_inside = 0, 0

    def run(_):
        nonlocal inside, max_inside
        inside += 1
        max_inside = max(max_inside, inside)
        time.sleep(0.01)
        inside -= 1

    for wrap, expected in ((one_at_a_time, 1), (lambda execution: execution, 4)):
        max_inside = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(wrap(run), range(8)))
        assert max_inside == expected


def test_export_is_cached_and_replaced_if_damaged():
    task, slow = Tiny(), Slow(Tiny())
    name = f"test-{uuid.uuid4().hex}"
    assert faster_execution(task, BATCH, 1, slow, name) is not None
    [cached] = _cache_folder().glob(f"{name}-in-*.onnx")
    try:
        content = cached.read_bytes()
        assert faster_execution(task, BATCH, 1, slow, name) is not None
        assert cached.read_bytes() == content, "it was not exported again"
        other = Tiny()
        other.weight.data *= 2  # under a name that is not its own
        execution = faster_execution(other, BATCH, 1, Slow(other), name)
        np.testing.assert_allclose(execution(BATCH)["out"], 2 * BATCH["in"].numpy(), rtol=1e-5)
        cached.write_bytes(content[: len(content) // 2])
        assert faster_execution(task, BATCH, 1, slow, name) is not None
        assert len(cached.read_bytes()) > len(content) // 2
    finally:
        cached.unlink()


BATCH = {"in": torch.rand(4, 3)}


def test_network_without_export_runs_in_pytorch(caplog):
    caplog.set_level(logging.INFO, "ray.serve")

    def sum_in_python(values):
        return torch.from_numpy(np.asarray([row[: 1 + int(row.sum() > 9)].sum() for row in values.numpy()]))

    task = Tiny(sum_in_python)
    assert faster_execution(task, BATCH, 1, eager_of(task)) is None
    assert "ONNX cannot hold it" in caplog.text


def test_slower_export_is_not_used(caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    task = Tiny()
    ready = eager_of(task)(BATCH)

    def instant(batch):
        return {"out": batch["in"].numpy()} if len(batch["in"]) != 4 else ready

    assert faster_execution(task, BATCH, 1, instant) is None
    assert "of its time" in caplog.text


def test_export_with_other_values_is_not_used(caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    task = Tiny()
    slow = Slow(task)
    assert faster_execution(task, BATCH, 1, slow) is not None
    for differently in (lambda out: out + np.array([0, 0, 1]), lambda out: 3 * out, lambda out: out * np.nan):
        assert faster_execution(task, BATCH, 1, lambda batch, do=differently: {"out": do(slow(batch)["out"])}) is None
    assert caplog.messages == ["the network runs in PyTorch: ONNX gives other values"] * 3
