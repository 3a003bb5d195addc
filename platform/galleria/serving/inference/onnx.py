"""Runs a network in ONNX Runtime: on CPUs often two or three times as fast as eager PyTorch."""

import contextlib
import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galleria.durable import write_atomically

logger = logging.getLogger("ray.serve")

TOLERANCE = 1e-3
"""Relative difference from PyTorch's values that is accepted."""

EXPORT_LOCK = Lock()
"""The exporter, and silencing it, change global state of the process."""

MAX_CACHED_EXPORTS = 16
"""Exports that stay on disk, the newest."""

BENCHMARK_REPEATS = 5
"""Measurements of each runtime, alternating, since the machine is busy while a service starts; the best counts."""

EXCLUSIVE_ROW_S = 0.02
"""Seconds a row from which batches run one at a time: large networks evict each other from the CPU's caches, while
small ones leave cores idle between their short steps, which another batch uses."""

Arrays = dict[str, NDArray[Any]]
Execution = Callable[[Mapping[str, Any]], Arrays]
"""Runs a batch of tensors to arrays."""


def faster_execution(
    task: Any, batch: Mapping[str, Any], threads: int, eager: Execution, name: str = ""
) -> Execution | None:
    """Return what runs batches like `batch` to the same values as `eager` and faster, or None.

    Any number of threads may call it.

    Args:
        task: a `Task` on the CPU.
        batch: tensors of at least two different rows; later batches may have any number.
        threads: that one run may use.
        eager: runs the task in PyTorch.
        name: of the network, unique to its weights: the export is cached under it, so that the next start need not
            export again. A cached export is compared with PyTorch as well.
    """
    try:
        execution = _equal_execution(task, batch, threads, eager, name)
    except ImportError:
        return None
    except Exception as error:  # whatever the exporter does not know
        logger.info("the network runs in PyTorch: ONNX cannot hold it (%s)", str(error).partition("\n")[0])
        return None
    if execution is None:
        logger.info("the network runs in PyTorch: ONNX gives other values")
        return None
    repeats = [(_measure_s(execution, batch), _measure_s(eager, batch)) for _ in range(BENCHMARK_REPEATS)]
    onnx_s, eager_s = (min(measured) for measured in zip(*repeats, strict=True))
    if onnx_s >= eager_s:
        logger.info("the network runs in PyTorch: ONNX takes %.2f of its time", onnx_s / eager_s)
        return None
    rows = len(next(iter(batch.values())))
    return one_at_a_time(execution) if onnx_s / rows > EXCLUSIVE_ROW_S else execution


def one_at_a_time(execution: Execution) -> Execution:
    """Return an execution that runs one batch at a time."""
    lock = Lock()

    def run(batch: Mapping[str, Any]) -> Arrays:
        with lock:
            return execution(batch)

    return run


def _equal_execution(
    task: Any, batch: Mapping[str, Any], threads: int, eager: Execution, name: str
) -> Execution | None:
    """Return the cached export, or else a new one, if its values equal PyTorch's."""
    import torch

    inputs, outputs = tuple(batch), tuple(eager(batch))
    cases = [(case, eager(case)) for case in _batch_sizes(batch)]
    file = _cache_folder() / f"{name}-{'-'.join(inputs)}-torch-{torch.__version__}.onnx" if name else None
    if file is not None and file.exists():
        with contextlib.suppress(Exception):  # whatever is wrong with it, it can be exported again
            cached = _session(file.read_bytes(), inputs, outputs, threads)
            if all(_close(cached(case), expected) for case, expected in cases):
                return cached
    with EXPORT_LOCK:
        model = _export(task, batch, outputs)
    execution = _session(model, inputs, outputs, threads)
    if not all(_close(execution(case), expected) for case, expected in cases):
        return None
    if file is not None:
        with contextlib.suppress(OSError):  # without a cache the next start takes some seconds longer
            _cache(file, model)
    return execution


def _session(model: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...], threads: int) -> Execution:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores between batches
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(batch: Mapping[str, Any]) -> Arrays:
        values = session.run(list(outputs), {name: batch[name].numpy() for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run


def _cache_folder() -> Path:
    """Return the folder of cached exports."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GALLERIA_CACHE") or Path(home) / "galleria") / "onnx"


def _cache(file: Path, model: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, model)
    for old in sorted(file.parent.glob("*.onnx"), key=lambda cached: cached.stat().st_mtime)[:-MAX_CACHED_EXPORTS]:
        old.unlink()


def _export(task: Any, batch: Mapping[str, Any], outputs: tuple[str, ...]) -> bytes:
    import torch

    for chatty in ("onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    names = tuple(batch)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task = task

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values = self.task.predict(dict(zip(names, tensors, strict=True)))
            return tuple(values[name] for name in outputs)

    rows = torch.export.Dim("rows")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        warnings.simplefilter("ignore")
        # Strict: the other mode takes loops over levels for dimensions of the batch.
        graph = torch.export.export(
            Network().eval(), tuple(batch.values()), dynamic_shapes=(tuple({0: rows} for _ in names),), strict=True
        )
        program = torch.onnx.export(graph, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _batch_sizes(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the batch with one row, as it is, and with one more: an export may be right for one size only."""
    import torch

    one = {name: value[:1] for name, value in batch.items()}
    more = {name: torch.cat([value, value[:1]]) for name, value in batch.items()}
    return [one, dict(batch), more]


def _close(actual: Arrays, expected: Arrays) -> bool:
    return all(
        actual[name].shape == values.shape and np.allclose(actual[name], values, rtol=TOLERANCE, atol=TOLERANCE / 10)
        for name, values in expected.items()
    )


def _measure_s(execution: Execution, batch: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    execution(batch)
    return time.perf_counter() - started
