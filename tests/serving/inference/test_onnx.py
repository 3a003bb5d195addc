"""Pictures through ONNX Runtime: equal to PyTorch for every room and any number of rows, or not used."""

import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from galleria.learn.examples import stack
from galleria.learn.task import Signature, Task
from galleria.serving.inference.onnx import FAR, _folder, faster_execution, in_turns
from tests.drawings import drawing
from tests.serving.bundles import random_bundle

ROOMS = ("text_guided", "category_tree", "aesthetic_emotion", "contour", "garment_gender")


def eager_of(task):
    return lambda batch: {name: value.numpy() for name, value in task.predict(batch).items()}


class Slow:
    """PyTorch that takes its time, so that ONNX is faster whatever the machine does meanwhile."""

    def __init__(self, task):
        self.eager = eager_of(task)

    def __call__(self, batch):
        time.sleep(0.1)
        return self.eager(batch)


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_every_room_answers_the_same(room, tmp_path):
    bundle = random_bundle(room, tmp_path / "bundle")
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
            assert (1 - cosines).max() < FAR


class Tiny(Task):
    """Multiplies; what more it does is a test's."""

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


def test_batches_of_a_large_network_take_turns():
    inside, most = 0, 0

    def run(_):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    for wrap, expected in ((in_turns, 1), (lambda execution: execution, 4)):
        most = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(wrap(run), range(8)))
        assert most == expected


def test_an_export_is_kept_and_a_damaged_one_made_anew():
    task, slow = Tiny(), Slow(Tiny())
    name = f"test-{uuid.uuid4().hex}"
    assert faster_execution(task, BATCH, 1, slow, name) is not None
    [kept] = _folder().glob(f"{name}-in-*.onnx")
    try:
        whole = kept.read_bytes()
        assert faster_execution(task, BATCH, 1, slow, name) is not None
        assert kept.read_bytes() == whole, "it was not exported again"
        other = Tiny()
        other.weight.data *= 2  # under a name that is not its own
        found = faster_execution(other, BATCH, 1, Slow(other), name)
        np.testing.assert_allclose(found(BATCH)["out"], 2 * BATCH["in"].numpy(), rtol=1e-5)
        kept.write_bytes(whole[: len(whole) // 2])
        assert faster_execution(task, BATCH, 1, slow, name) is not None
        assert len(kept.read_bytes()) > len(whole) // 2
    finally:
        kept.unlink()


BATCH = {"in": torch.rand(4, 3)}


def test_what_cannot_be_exported_goes_on_in_pytorch(caplog):
    caplog.set_level(logging.INFO, "ray.serve")

    def by_hand(values):
        return torch.from_numpy(np.asarray([row[: 1 + int(row.sum() > 9)].sum() for row in values.numpy()]))

    task = Tiny(by_hand)
    assert faster_execution(task, BATCH, 1, eager_of(task)) is None
    assert "ONNX cannot hold it" in caplog.text


def test_what_is_not_faster_is_not_used(caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    task = Tiny()
    ready = eager_of(task)(BATCH)

    def at_once(batch):
        return {"out": batch["in"].numpy()} if len(batch["in"]) != 4 else ready

    assert faster_execution(task, BATCH, 1, at_once) is None
    assert "of its time" in caplog.text


def test_what_differs_is_not_used(caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    task = Tiny()
    slow = Slow(task)
    assert faster_execution(task, BATCH, 1, slow) is not None
    for differently in (lambda out: out + np.array([0, 0, 1]), lambda out: 3 * out, lambda out: out * np.nan):
        assert faster_execution(task, BATCH, 1, lambda batch, do=differently: {"out": do(slow(batch)["out"])}) is None
    assert caplog.messages == ["the network runs by PyTorch: ONNX gives other values"] * 3
