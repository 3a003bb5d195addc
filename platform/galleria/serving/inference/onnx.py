"""Runs a bundle's networks in ONNX Runtime: on CPUs often two or three times as fast as eager PyTorch.

Imports no torch: a process whose networks all run here starts in a fraction of the time.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from galleria.durable import locked, replace_folder
from galleria.learn.types import Signature

logger = logging.getLogger("ray.serve")

TOLERANCE = 1e-3
"""Relative difference from PyTorch's values that is accepted."""

MAX_CACHED_BUNDLES = 16
"""Bundles whose exports stay on disk, the newest."""

EXCLUSIVE_ROW_S = 0.02
"""Seconds a row from which batches run one at a time: large networks evict each other from the CPU's caches, while
small ones leave cores idle between their short steps, which another batch uses."""

EXPORT_TIMEOUT_S = 900.0
ERROR_LINES = 5
"""Last lines of a failed export that are logged."""

PACKAGES = ("torch", "onnxscript", "onnxruntime")
"""What an export needs; other versions export anew."""

EXPORT_MODULE = "galleria.serving.inference.export"
MANIFEST = "exports.json"
INPUT, OUTPUT = "input/", "output/"
"""Prefixes of the columns in a file of examples."""

Arrays = dict[str, NDArray[Any]]
Execution = Callable[[Mapping[str, Any]], Arrays]
"""Runs a batch of arrays."""


class ExportedNetwork(NamedTuple):
    """A network for one kind of query.

    Attributes:
        model: in ONNX.
        inputs: a batch.
        outputs: of PyTorch, for this batch.
        row_s: time that one row takes, in seconds.
    """

    model: bytes
    inputs: Arrays
    outputs: Arrays
    row_s: float


@dataclass(frozen=True)
class Exports:
    """The networks of a bundle that run in ONNX Runtime.

    Attributes:
        signature: of the bundle's network.
        executions: by the columns of a batch, sorted.
        examples: of the batch that each was compared on, its first row, by the name of the query: "image", "text", …
        reasons: why the other networks stay in PyTorch, by the name of the query.
    """

    signature: Signature
    executions: Mapping[tuple[str, ...], Execution]
    examples: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]


def find_exports(bundle: Path, bundle_hash: str, threads: int) -> Exports | None:
    """Return the exports of a bundle, which are made where there are none; None where that is not possible.

    What was made before is kept in a folder of the user. It is compared with PyTorch's outputs again, which are kept
    with it. Blocks for many seconds while another process exports.

    Args:
        bundle: its folder.
        bundle_hash: its hash.
        threads: that one run may use.
    """
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        return None
    versions = "-".join(importlib.metadata.version(package) for package in PACKAGES)
    try:
        with _cached(f"{bundle_hash[:32]}-{versions}-{threads}") as folder:
            with contextlib.suppress(Exception):  # whatever is wrong with it, it can be exported again
                return open_exports(folder, threads)
            _export(bundle, folder, threads)
            return open_exports(folder, threads)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        logger.warning("bundle %s runs in PyTorch: its export to ONNX failed: %s", bundle, error)
        return None


def open_exports(folder: Path, threads: int) -> Exports:
    """Open the exports in a folder.

    Raises:
        OSError: there are none.
        RuntimeError: their values differ from those that they had.
        Exception: whatever ONNX Runtime raises for a damaged file.
    """
    manifest = json.loads((folder / MANIFEST).read_bytes())
    signature = manifest["signature"]
    executions: dict[tuple[str, ...], Execution] = {}
    examples = {}
    for name, row_s in manifest["networks"].items():
        columns = load_file(folder / f"{name}.safetensors")
        inputs, outputs = (
            {column.removeprefix(prefix): value for column, value in columns.items() if column.startswith(prefix)}
            for prefix in (INPUT, OUTPUT)
        )
        run = open_session((folder / f"{name}.onnx").read_bytes(), tuple(outputs), threads)
        for rows in (1, len(next(iter(inputs.values())))):
            case, expected = ({key: value[:rows] for key, value in part.items()} for part in (inputs, outputs))
            if not is_close(run(case), expected):
                raise RuntimeError(f"{folder} gives other values for {name!r} than PyTorch did")
        executions[tuple(sorted(inputs))] = one_at_a_time(run) if row_s > EXCLUSIVE_ROW_S else run
        examples[name] = {column: value[0] for column, value in inputs.items()}
    return Exports(
        Signature(tuple(signature["inputs"]), signature["dimension"], signature["levels"], tuple(signature["slices"])),
        executions,
        examples,
        manifest["reasons"],
    )


def write_exports(
    folder: Path, signature: Signature, networks: Mapping[str, ExportedNetwork], reasons: Mapping[str, str]
) -> None:
    """Write exports to an empty folder."""
    for name, network in networks.items():
        (folder / f"{name}.onnx").write_bytes(network.model)
        columns = {INPUT + column: value for column, value in network.inputs.items()}
        columns |= {OUTPUT + column: value for column, value in network.outputs.items()}
        save_file(
            {column: np.ascontiguousarray(value) for column, value in columns.items()}, folder / f"{name}.safetensors"
        )
    manifest = {
        "signature": asdict(signature),
        "networks": {name: network.row_s for name, network in networks.items()},
        "reasons": dict(reasons),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def open_session(model: bytes, outputs: tuple[str, ...], threads: int) -> Execution:
    """Return what runs a model in ONNX Runtime. Its threads have the priority of the thread that calls this."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores between batches
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]

    def run(batch: Mapping[str, Any]) -> Arrays:
        values = session.run(list(outputs), {name: batch[name] for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run


def one_at_a_time(execution: Execution) -> Execution:
    """Return an execution that runs one batch at a time."""
    lock = Lock()

    def run(batch: Mapping[str, Any]) -> Arrays:
        with lock:
            return execution(batch)

    return run


def is_close(actual: Arrays, expected: Arrays) -> bool:
    """Return whether outputs equal those of PyTorch, but for the last digits."""
    return all(
        actual[name].shape == values.shape and np.allclose(actual[name], values, rtol=TOLERANCE, atol=TOLERANCE / 10)
        for name, values in expected.items()
    )


@contextlib.contextmanager
def _cached(name: str) -> Iterator[Path]:
    """Yield the folder of a bundle's exports, which no other process changes meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            cache = cache_folder()
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(cache / name))
        except OSError:  # without a cache the next start exports again
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield cache / name


def cache_folder() -> Path:
    """Return the folder of cached exports."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GALLERIA_CACHE") or Path(home) / "galleria") / "onnx"


def _export(bundle: Path, folder: Path, threads: int) -> None:
    """Export a bundle in another process to a folder, which appears as a whole or not at all.

    Raises:
        RuntimeError: the process failed, and its last lines.
        OSError: the folder cannot be written.
        subprocess.TimeoutExpired: it took too long.
    """
    theirs, ours = os.pipe()
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", EXPORT_MODULE, str(bundle), str(made), str(threads)],
                stdin=theirs,  # which ends with this process, however that ends, and the child with it
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                timeout=EXPORT_TIMEOUT_S,
                start_new_session=True,  # Ctrl-C is for the parent
                check=False,
            )
            if done.returncode:
                lines = "\n".join(done.stdout.splitlines()[-ERROR_LINES:])
                raise RuntimeError(f"the process that exports it ended with code {done.returncode}: {lines}")
            replace_folder(made, folder)
    finally:
        os.close(theirs)
        os.close(ours)
    _remove_old(folder.parent)


def _remove_old(cache: Path) -> None:
    entries = [entry for entry in cache.iterdir() if not entry.name.startswith(".")]
    for entry in sorted(entries, key=lambda cached: cached.stat().st_mtime)[:-MAX_CACHED_BUNDLES]:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:  # of an older version
            entry.unlink(missing_ok=True)
