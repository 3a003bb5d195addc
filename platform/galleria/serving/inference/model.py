"""One bundle's network, from rows to predictions."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from galleria.background import lower_priority
from galleria.errors import BundleError, ConfigurationError, DataError
from galleria.learn.bundle import Bundle
from galleria.learn.types import Signature
from galleria.media.decoder import Decoder, decode_with
from galleria.serving.config import SEARCH, BundleLocation, Kind
from galleria.serving.inference.noise import noise
from galleria.serving.inference.onnx import Arrays, Execution, Exports, find_exports
from galleria.serving.inference.types import Description, Prediction

if TYPE_CHECKING:
    from galleria.serving.inference.eager import EagerNetwork

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
MEDIA = ("image", "text", "video")
"""Columns of a row that are the query; all others are options."""

PREDICT_NICENESS = 5
"""Of the threads that networks run in: what responds fast, the event loop above all, goes first."""

GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")
"""Of NVIDIA, of Windows' subsystem for Linux, and of AMD."""

USAGE = {"search": "search with a picture or a vector", "classify": "send a picture", "events": "send a video"}


class LoadedModel:
    """A bundle whose network is ready to run.

    Attributes:
        description: of the bundle.
        kind: of requests that it is for.
    """

    def __init__(
        self,
        location: BundleLocation,
        name: str,
        predict_threads: ThreadPoolExecutor,
        threads: int = 1,
        runtime: Literal["auto", "torch"] = "torch",
        on_start: Callable[[], None] = lambda: None,
        decoder: Decoder | None = None,
    ) -> None:
        """Open a bundle and build its network.

        Args:
            location: its folder, and the hash that it must have.
            name: of the model.
            predict_threads: that networks run in.
            threads: of a network.
            runtime: "auto" for ONNX Runtime where it is faster, on a CPU.
            on_start: is called in a batch's thread when the network starts, after any wait for other batches.
            decoder: decodes pictures and videos; without one they are decoded in this process.

        Raises:
            BundleError: the bundle is damaged, has another hash, or its network fails.
            ConfigurationError: the bundle's family is not for the requests that the model gets.
        """
        self._on_start = on_start
        self._decoder = decoder
        self._threads = threads
        self._bundle = Bundle.open(location.path)
        if self._bundle.hash != location.hash:
            raise BundleError(
                f"bundle {location.path} is {self._bundle.hash[:12]}, but the service was started for "
                f"{location.hash[:12]}: start it again with bundles, table and index that belong together"
            )
        self.kind = _kind(self._bundle.family, name)
        self._eager: EagerNetwork | None = None
        self._eager_lock = Lock()
        exports = None if runtime == "torch" or self.kind == "events" or _has_gpu() else self._find_exports()
        self._executions: Mapping[tuple[str, ...], Execution] = exports.executions if exports else {}
        # What a client may send next finds its network built, whichever it is.
        signature = exports.signature if exports and not exports.reasons else self._eager_network().signature
        self._inputs = signature.inputs
        self._warm_up(predict_threads, signature, exports.examples if exports else {})
        self.description = Description(
            kind=self.kind,
            family=self._bundle.family.name,
            hash=location.hash,
            inputs=self._inputs,
            metrics={name: score.value for name, score in self._bundle.metrics.items()},
            dimension=signature.dimension,
            levels=signature.levels,
            slices=signature.slices,
            runtime="onnx" if exports and "image" in exports.examples else "torch",
        )

    def read(self, row: Row) -> Row | Prediction:
        """Return the example of a row, or the error in it. May run in any thread."""
        try:
            with decode_with(self._decoder):
                example = self._bundle.family.example(row, self._bundle.context, None)
            if not example or not set(row) & set(self._inputs):
                raise DataError(f"this model does not read {' or '.join(row)}: {USAGE[self.kind]}")
            for name in row:
                if name not in MEDIA and name not in example:
                    message = f"family {self._bundle.family.name!r} has no use for it: leave it out"
                    return Prediction(self._bundle.hash, error="DataError", message=message, field=name)
            return example
        except DataError as error:
            return self._failed(error)
        except Exception as error:
            logger.exception("a row could not be read")
            return self._failed(error)

    def predict(self, examples: Sequence[Row | Prediction]) -> list[Prediction]:
        """Run the network; return one outcome each, in order. A row that fails fails alone. For a predict thread."""
        outcomes: dict[int, Prediction] = {}
        groups: dict[tuple[str, ...], list[int]] = {}  # pictures, texts and options have different columns
        for index, example in enumerate(examples):
            if isinstance(example, Prediction):
                outcomes[index] = example
            else:
                groups.setdefault(tuple(sorted(example)), []).append(index)
        for indices in groups.values():
            outcomes.update(zip(indices, self._run([examples[index] for index in indices]), strict=True))
        return [outcomes[index] for index in range(len(examples))]

    def _find_exports(self) -> Exports | None:
        # ONNX Runtime's own threads have the priority of the thread that opens its session.
        with ThreadPoolExecutor(1, "export", lower_priority, (PREDICT_NICENESS,)) as pool:
            exports = pool.submit(find_exports, Path(self._bundle.path), self._bundle.hash, self._threads).result()
        for name, reason in exports.reasons.items() if exports else ():
            logger.info("the network runs in PyTorch for %s: %s", name, reason)
        return exports

    def _warm_up(self, predict_threads: ThreadPoolExecutor, signature: Signature, examples: Mapping[str, Row]) -> None:
        """Run the network once for each kind of query but videos: a broken one is not served, and no client waits.

        Args:
            predict_threads: that it runs in.
            signature: of the network.
            examples: of kinds of queries; others are read from rows.

        Raises:
            BundleError: it fails, or its vectors have another length than its signature says.
        """
        rows: Mapping[str, Row] = {"image": {"image": noise(0)}, "text": {"text": "a"}}
        for name in self._inputs:
            if name not in rows:
                continue
            example = examples[name] if name in examples else self.read(rows[name])
            [outcome] = predict_threads.submit(self.predict, [example]).result()
            if outcome.answer is None:
                raise BundleError(
                    f"bundle {self._bundle.path}: its network fails on a query of {name} "
                    f"({outcome.error}: {outcome.message}): train or publish it again"
                )
            if self.kind == "search" and len(outcome.answer["embedding"]) != signature.dimension:
                raise BundleError(
                    f"bundle {self._bundle.path}: its network embeds {name} in {len(outcome.answer['embedding'])} "
                    f"dimensions, and its signature says {signature.dimension}: fix the family's signature()"
                )

    def _run(self, examples: Sequence[Any]) -> list[Prediction]:
        try:
            outputs = self._outputs({name: np.stack([example[name] for example in examples]) for name in examples[0]})
            return [
                self._present({name: value[row] for name, value in outputs.items()}) for row in range(len(examples))
            ]
        except Exception as error:
            if len(examples) > 1:
                return [self._run([example])[0] for example in examples]
            logger.exception("the network failed on a row")
            return [self._failed(error)]

    def _outputs(self, batch: Arrays) -> Arrays:
        execution = self._executions.get(tuple(sorted(batch)))
        if execution is None:
            return self._eager_network()(batch, self._on_start)
        self._on_start()
        return execution(batch)

    def _eager_network(self) -> "EagerNetwork":
        """Return the network in PyTorch, which is built where something first needs it."""
        with self._eager_lock:
            if self._eager is None:
                from galleria.serving.inference.eager import EagerNetwork

                self._eager = EagerNetwork(self._bundle, self._threads)
            return self._eager

    def _present(self, outputs: Mapping[str, Any]) -> Prediction:
        answer = dict(self._bundle.family.present(outputs, self._bundle.context.labels))
        if self.kind == "search":
            answer["embedding"] = np.asarray(answer["embedding"], np.float32)
        return Prediction(self._bundle.hash, answer)

    def _failed(self, error: Exception) -> Prediction:
        return Prediction(self._bundle.hash, error=type(error).__name__, message=str(error))


def _kind(family: Any, name: str) -> Kind:
    """Return the kind of requests that a family is for, and check that the model `name` gets such requests."""
    columns = family.schema.names
    kind: Kind = "events" if "video" in columns else "search" if family.ranks else "classify"
    if name == SEARCH and kind != "search":
        raise ConfigurationError(f"family {family.name!r} does not embed for search: serve its bundle under `models`")
    if name != SEARCH and kind == "search":
        raise ConfigurationError(
            f"family {family.name!r} embeds for search: model {name!r} needs a table and an index, so serve it "
            "as `bundle`"
        )
    return kind


def _has_gpu() -> bool:
    """Return whether this process may use a GPU; asks PyTorch, whose import takes seconds, only where there is one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()
