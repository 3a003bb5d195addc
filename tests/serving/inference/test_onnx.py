"""ONNX Runtime gives PyTorch's values for every family and any number of rows, or is not used."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch

from galleria.learn.examples import stack
from galleria.learn.task import Signature, Task
from galleria.serving.inference.export import NotExportedError, compared_network
from galleria.serving.inference.onnx import (
    TOLERANCE,
    cache_folder,
    find_exports,
    one_at_a_time,
    open_exports,
    open_session,
    write_exports,
)
from tests.drawings import drawing
from tests.serving.bundles import random_bundle

FAMILIES = ("text_guided", "category_tree", "aesthetic_emotion", "contour", "garment_gender")
TEXTS = ("a", "thing", "thing number 3", "two things", "red", "blue", "a b c", "shoe", "a shoe")


def eager_of(task):
    return lambda batch: {name: value.numpy() for name, value in task.predict(batch).items()}


class Slow:
    """Eager PyTorch, slowed down so that ONNX is faster on a busy machine too."""

    def __init__(self, task):
        self.eager = eager_of(task)

    def __call__(self, batch):
        time.sleep(0.1)
        return self.eager(batch)


def run_of(network):
    """What runs tensors in ONNX Runtime."""
    run = open_session(network.model, tuple(network.outputs), 1)
    return lambda batch: run({name: value.numpy() for name, value in batch.items()})


@pytest.mark.slow
@pytest.mark.parametrize(("family", "column"), [*((family, "image") for family in FAMILIES), ("text_guided", "text")])
def test_every_family_gives_equal_values(family, column, tmp_path):
    bundle = random_bundle(family, tmp_path / "bundle")
    task = bundle.task()
    values = {"image": map(drawing, range(9)), "text": TEXTS}[column]
    examples = [bundle.family.example({column: value}, bundle.context, None) for value in values]
    execution = run_of(compared_network(task, stack(examples[:4]), 1, Slow(task)))
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


BATCH = {"in": torch.rand(4, 3)}


def test_damaged_exports_are_not_opened(tmp_path):
    task = Tiny()
    network = compared_network(task, BATCH, 1, Slow(task))
    write_exports(tmp_path, task.signature(), {"image": network}, {"text": "it is slower"})
    exports = open_exports(tmp_path, 1)
    assert (exports.signature, exports.reasons) == (task.signature(), {"text": "it is slower"})
    arrays = {"in": BATCH["in"].numpy()}
    np.testing.assert_allclose(exports.executions["in",](arrays)["out"], arrays["in"], rtol=1e-5)
    np.testing.assert_array_equal(exports.examples["image"]["in"], arrays["in"][0])

    other = Tiny()
    other.weight.data *= 2
    differing = compared_network(other, BATCH, 1, Slow(other))._replace(outputs=network.outputs)
    (tmp_path / "other").mkdir()
    write_exports(tmp_path / "other", task.signature(), {"image": differing}, {})
    with pytest.raises(RuntimeError, match="gives other values for 'image' than PyTorch did"):
        open_exports(tmp_path / "other", 1)
    model = tmp_path / "image.onnx"
    model.write_bytes(network.model[: len(network.model) // 2])
    with pytest.raises(Exception, match=r"."):  # ONNX Runtime's own
        open_exports(tmp_path, 1)


def test_network_without_export_runs_in_pytorch():
    def sum_in_python(values):
        return torch.from_numpy(np.asarray([row[: 1 + int(row.sum() > 9)].sum() for row in values.numpy()]))

    task = Tiny(sum_in_python)
    with pytest.raises(NotExportedError, match="ONNX cannot hold it"):
        compared_network(task, BATCH, 1, eager_of(task))


def test_slower_export_is_not_used():
    task = Tiny()
    ready = eager_of(task)(BATCH)

    def instant(batch):
        return {"out": batch["in"].numpy()} if len(batch["in"]) != 4 else ready

    with pytest.raises(NotExportedError, match="of its time"):
        compared_network(task, BATCH, 1, instant)


def test_export_with_other_values_is_not_used():
    task = Tiny()
    slow = Slow(task)
    assert compared_network(task, BATCH, 1, slow)
    for differently in (lambda out: out + np.array([0, 0, 1]), lambda out: 3 * out, lambda out: out * np.nan):
        with pytest.raises(NotExportedError, match="ONNX gives other values"):
            compared_network(task, BATCH, 1, lambda batch, do=differently: {"out": do(slow(batch)["out"])})


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    """Two bundles."""
    folder = tmp_path_factory.mktemp("moods")
    return [random_bundle("aesthetic_emotion", folder / str(seed), seed=seed) for seed in range(2)]


LOAD = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from galleria.serving.config import BundleLocation
from galleria.serving.inference.model import LoadedModel

loaded = []
for location in json.loads(sys.argv[1]):
    with ThreadPoolExecutor(1) as pool:
        model = LoadedModel(BundleLocation(*location), "mood", pool, runtime="auto")
        loaded.append([model.description.runtime, "torch" in sys.modules])
print(json.dumps(loaded))
"""


@pytest.mark.slow
def test_process_that_serves_never_imports_torch(moods, monkeypatch, tmp_path):
    """Neither to export a first and a second release, nor after a restart."""
    monkeypatch.setenv("GALLERIA_CACHE", str(tmp_path))
    locations = json.dumps([[str(bundle.path), bundle.hash] for bundle in moods])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, locations], capture_output=True, text=True, check=True, timeout=600
        )
        assert json.loads(done.stdout) == [["onnx", False], ["onnx", False]]
        folders = sorted(folder for folder in cache_folder().iterdir() if folder.is_dir())
        assert len(folders) == 2
        made = [(folder / "exports.json").stat().st_mtime_ns for folder in folders]
    assert made == [(folder / "exports.json").stat().st_mtime_ns for folder in folders], "exported once"
    model = folders[0] / "image.onnx"
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    subprocess.run([sys.executable, "-c", LOAD, locations], check=True, timeout=600, stdout=subprocess.DEVNULL)
    assert len(model.read_bytes()) > len(content) // 2, "it was damaged"


def test_failed_export_is_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GALLERIA_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.WARNING, "ray.serve")
    assert find_exports(tmp_path / "nowhere", "0123", 1) is None
    assert "its export to ONNX failed: the process that exports it ended with code 1" in caplog.text
    assert "BundleError" in caplog.text
    assert [entry.name for entry in cache_folder().iterdir() if entry.is_dir()] == [], "nothing is left"


@pytest.mark.slow
def test_export_ends_with_its_parent(moods, tmp_path):
    code = f"from galleria.serving.inference.onnx import find_exports; find_exports({str(moods[0].path)!r}, 'h', 1)"
    environment = os.environ | {"GALLERIA_CACHE": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        while not (children := psutil.Process(parent.pid).children()):
            assert parent.poll() is None
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
