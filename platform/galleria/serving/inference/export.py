"""Exports the networks of a bundle to ONNX, and compares them with PyTorch, in a process of its own.

    python -m galleria.serving.inference.export BUNDLE FOLDER THREADS

PyTorch keeps parts of an exported network for as long as the process lives, and the exporter holds the interpreter's
lock for many seconds: neither is for a process that serves. `galleria.serving.inference.onnx` starts this one, and
opens what it leaves in the folder: for each kind of query NAME.onnx and NAME.safetensors, a batch with PyTorch's
outputs, and `exports.json`. The process ends with its parent, whose end closes its standard input.
"""

import contextlib
import copy
import io
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from galleria.errors import DataError
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from galleria.learn.types import Batch, Row, Signature
from galleria.serving.inference.noise import noise
from galleria.serving.inference.onnx import Arrays, ExportedNetwork, is_close, open_session, write_exports

BENCHMARK_REPEATS = 5
"""Measurements of each runtime, alternating, since the machine is busy while a service starts; the best counts."""

NICENESS = 5
"""Added to the parent's: queries go first."""

TEXTS = ("a", "red shoes", "a blue dress with long sleeves, for summer", "chair 12")

Eager = Callable[[Batch], Arrays]
"""Runs a batch of tensors in PyTorch."""


class NotExportedError(Exception):
    """Why a network does not run in ONNX Runtime."""


def main(path: str, folder: str, threads: int) -> None:
    """Export the networks of the bundle at `path` that are equal in ONNX Runtime, and faster, to `folder`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    torch.set_num_threads(threads)
    bundle = Bundle.open(path)
    task = bundle.task()
    signature = task.signature()

    def eager(batch: Batch) -> Arrays:
        return {name: value.numpy() for name, value in task.predict(batch).items()}

    networks, reasons = {}, {}
    for name, rows in _queries(signature).items():
        try:
            networks[name] = compared_network(task, stack(_examples(bundle, rows)), threads, eager)
        except NotExportedError as reason:
            reasons[name] = str(reason)
    write_exports(Path(folder), signature, networks, reasons)


def compared_network(task: Any, batch: Batch, threads: int, eager: Eager) -> ExportedNetwork:
    """Return the network that runs batches like `batch` in ONNX Runtime.

    Args:
        task: a `Task` on the CPU.
        batch: tensors of at least two different rows; later batches may have any number.
        threads: that one run may use.
        eager: runs the task in PyTorch.

    Raises:
        NotExportedError: ONNX cannot hold it, gives other values, or is not faster.
    """
    expected = eager(batch)
    try:
        model = _export(task, batch, tuple(expected))
        run = open_session(model, tuple(expected), threads)
        cases = [(_arrays(case), eager(case)) for case in _batch_sizes(batch)]
        equal = all(is_close(run(case), values) for case, values in cases)
    except Exception as error:  # whatever the exporter does not know
        raise NotExportedError(f"ONNX cannot hold it ({str(error).partition(chr(10))[0]})") from error
    if not equal:
        raise NotExportedError("ONNX gives other values")
    arrays = _arrays(batch)
    repeats = [(_measure_s(run, arrays), _measure_s(eager, batch)) for _ in range(BENCHMARK_REPEATS)]
    onnx_s, eager_s = (min(measured) for measured in zip(*repeats, strict=True))
    if onnx_s >= eager_s:
        raise NotExportedError(f"ONNX takes {onnx_s / eager_s:.2f} of its time")
    return ExportedNetwork(model, arrays, expected, onnx_s / len(next(iter(arrays.values()))))


def _queries(signature: Signature) -> dict[str, list[Row]]:
    """Return rows of each kind of query that a network reads, but videos."""
    images: list[Row] = [{"image": noise(seed)} for seed in range(len(TEXTS))]
    rows: dict[str, list[Row]] = {"image": images, "text": [{"text": text} for text in TEXTS]}
    queries = {name: rows[name] for name in signature.inputs if name in rows}
    if signature.levels and "image" in queries:
        weights = [[1.0 + row] * signature.levels for row in range(len(TEXTS))]
        for row, values in enumerate(weights):
            values[row % signature.levels] *= 2
        queries["level_weights"] = [
            {**image, "level_weights": values} for image, values in zip(images, weights, strict=True)
        ]
    return queries


def _examples(bundle: Bundle, rows: list[Row]) -> list[Row]:
    examples = []
    for row in rows:
        with contextlib.suppress(DataError):  # a tokenizer may know no word of a text
            examples.append(bundle.family.example(row, bundle.context, None))
    if len(examples) < 2:
        raise NotExportedError("there are no rows to compare it on")
    return examples


def _export(task: Any, batch: Batch, outputs: tuple[str, ...]) -> bytes:
    for chatty in ("onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    names = tuple(batch)
    task = copy.deepcopy(task)
    for module in task.modules():
        if hasattr(module, "set_attn_implementation"):  # of transformers: the exporter cannot trace its fused attention
            module.set_attn_implementation("eager")

    class Exported(torch.nn.Module):
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
            Exported().eval(), tuple(batch.values()), dynamic_shapes=(tuple({0: rows} for _ in names),), strict=True
        )
        program = torch.onnx.export(graph, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _batch_sizes(batch: Batch) -> list[Batch]:
    """Return the batch with one row, as it is, and with one more: an export may be right for one size only."""
    one = {name: value[:1] for name, value in batch.items()}
    more = {name: torch.cat([value, value[:1]]) for name, value in batch.items()}
    return [one, dict(batch), more]


def _arrays(batch: Batch) -> Arrays:
    return {name: value.numpy() for name, value in batch.items()}


def _measure_s(run: Callable[[Any], Arrays], batch: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
