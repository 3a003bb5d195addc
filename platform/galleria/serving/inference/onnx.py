"""A network through ONNX Runtime: on CPUs often two or three times as fast as PyTorch step by step."""

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

FAR = 1e-3
"""Part of a value by which it may differ from PyTorch's."""

EXPORTING = Lock()
"""The exporter and what silences it change the whole process."""

KEPT = 16
"""Exports that are kept, the newest."""

TURNS = 5
"""Measurements of each, in turns, since the machine is busy while a service starts; the best counts."""

LONG_SECONDS = 0.02
"""Time of a row from which on batches do not run at once: large networks drive each other out of the caches, while
small ones leave cores idle between their short steps, which another batch takes."""

Arrays = dict[str, NDArray[Any]]
Execution = Callable[[Mapping[str, Any]], Arrays]
"""What runs a batch of tensors to arrays."""


def faster_execution(
    task: Any, batch: Mapping[str, Any], threads: int, eager: Execution, name: str = ""
) -> Execution | None:
    """What runs batches like `batch` faster than `eager` and to the same, or nothing where there is none.

    Any number of threads may run it.

    Args:
        task: a `Task` on the CPU.
        batch: tensors of at least two rows, each another; any number of rows may come.
        threads: that one run may use.
        eager: runs the task by PyTorch.
        name: of the network, the same for the same weights alone: its export is kept under it, so that the next start
            does not wait for one. What is kept is compared with PyTorch as well.
    """
    try:
        execution = _equal(task, batch, threads, eager, name)
    except ImportError:
        return None
    except Exception as error:  # whatever the exporter does not know
        logger.info("the network runs by PyTorch: ONNX cannot hold it (%s)", str(error).partition("\n")[0])
        return None
    if execution is None:
        logger.info("the network runs by PyTorch: ONNX gives other values")
        return None
    turns = [(_seconds(execution, batch), _seconds(eager, batch)) for _ in range(TURNS)]
    seconds, others = (min(taken) for taken in zip(*turns, strict=True))
    if seconds >= others:
        logger.info("the network runs by PyTorch: ONNX takes %.2f of its time", seconds / others)
        return None
    return in_turns(execution) if seconds / len(next(iter(batch.values()))) > LONG_SECONDS else execution


def in_turns(execution: Execution) -> Execution:
    """The same, one batch at a time."""
    one = Lock()

    def run(batch: Mapping[str, Any]) -> Arrays:
        with one:
            return execution(batch)

    return run


def _equal(task: Any, batch: Mapping[str, Any], threads: int, eager: Execution, name: str) -> Execution | None:
    """What was kept, or else a new export, where it gives what PyTorch gives."""
    import torch

    inputs, outputs = tuple(batch), tuple(eager(batch))
    sizes = [(sized, eager(sized)) for sized in _sizes(batch)]
    file = _folder() / f"{name}-{'-'.join(inputs)}-torch-{torch.__version__}.onnx" if name else None
    if file is not None and file.exists():
        with contextlib.suppress(Exception):  # whatever is wrong with it, it can be made anew
            kept = _runner(file.read_bytes(), inputs, outputs, threads)
            if all(_same(kept(sized), expected) for sized, expected in sizes):
                return kept
    with EXPORTING:
        model = _export(task, batch, outputs)
    execution = _runner(model, inputs, outputs, threads)
    if not all(_same(execution(sized), expected) for sized, expected in sizes):
        return None
    if file is not None:
        with contextlib.suppress(OSError):  # a home that cannot be written to costs the next start some seconds
            _keep(file, model)
    return execution


def _runner(model: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...], threads: int) -> Execution:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores between batches
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(batch: Mapping[str, Any]) -> Arrays:
        found = session.run(list(outputs), {name: batch[name].numpy() for name in inputs})
        return dict(zip(outputs, found, strict=True))

    return run


def _folder() -> Path:
    """Where exports are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GALLERIA_CACHE") or Path(home) / "galleria") / "onnx"


def _keep(file: Path, model: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, model)
    for old in sorted(file.parent.glob("*.onnx"), key=lambda kept: kept.stat().st_mtime)[:-KEPT]:
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
            found = self.task.predict(dict(zip(names, tensors, strict=True)))
            return tuple(found[name] for name in outputs)

    rows = torch.export.Dim("rows")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter tells of its progress
        warnings.simplefilter("ignore")
        # Strict: what walks through the Python step by step takes loops over levels for sizes of the batch.
        graph = torch.export.export(
            Network().eval(), tuple(batch.values()), dynamic_shapes=(tuple({0: rows} for _ in names),), strict=True
        )
        program = torch.onnx.export(graph, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _sizes(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The batch with one row, as it is, and with more: an export may hold for one size only."""
    import torch

    one = {name: value[:1] for name, value in batch.items()}
    more = {name: torch.cat([value, value[:1]]) for name, value in batch.items()}
    return [one, dict(batch), more]


def _same(found: Arrays, expected: Arrays) -> bool:
    return all(
        found[name].shape == values.shape and np.allclose(found[name], values, rtol=FAR, atol=FAR / 10)
        for name, values in expected.items()
    )


def _seconds(execution: Execution, batch: Mapping[str, Any]) -> float:
    begun = time.perf_counter()
    execution(batch)
    return time.perf_counter() - begun
