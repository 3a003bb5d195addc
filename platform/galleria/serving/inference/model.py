"""One bundle's network, from rows to predictions."""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from galleria.background import lower_priority
from galleria.errors import BundleError, ConfigurationError, DataError
from galleria.media.decoder import Decoder, decode_with
from galleria.serving.config import SEARCH, BundleLocation, Kind
from galleria.serving.inference.onnx import Arrays, Execution, faster_execution
from galleria.serving.inference.types import Description, Prediction

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
MEDIA = ("image", "text", "video")
"""Columns of a row that are the query; all others are options."""

PREDICT_NICENESS = 5
"""Of the threads that networks run in: what responds fast, the event loop above all, goes first."""

BENCHMARK_ROWS = 4
"""Pictures in the batch that the runtimes are compared with."""

TORCH_LOCK = Lock()
"""PyTorch's networks run one at a time in a process, since each uses all of the threads."""

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
        onnx_threads: int = 0,
        on_start: Callable[[], None] = lambda: None,
        decoder: Decoder | None = None,
    ) -> None:
        """Open a bundle and build its network.

        Args:
            location: its folder, and the hash that it must have.
            name: of the model.
            predict_threads: that networks run in.
            onnx_threads: that ONNX Runtime may use for pictures, where it is faster; 0 for PyTorch in any case.
            on_start: is called in a batch's thread when the network starts, after any wait for other batches.
            decoder: decodes pictures and videos; without one they are decoded in this process.

        Raises:
            BundleError: the bundle is damaged, has another hash, or its network fails.
            ConfigurationError: the bundle's family is not for the requests that the model gets.
        """
        import torch

        from galleria.learn.bundle import Bundle

        self._on_start = on_start
        self._decoder = decoder
        self._bundle = Bundle.open(location.path)
        if self._bundle.hash != location.hash:
            raise BundleError(
                f"bundle {location.path} is {self._bundle.hash[:12]}, but the service was started for "
                f"{location.hash[:12]}: start it again with bundles, table and index that belong together"
            )
        self.kind = _kind(self._bundle.family, name)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._task = self._bundle.task().to(self._device)
        self._faster: dict[tuple[str, ...], Execution] = {}
        signature = self._task.signature()
        self._inputs = signature.inputs
        self._warm_up(predict_threads, signature.dimension)
        if onnx_threads and "image" in self._inputs and self._device.type == "cpu":
            self._choose_runtime(onnx_threads, predict_threads)
        self.description = Description(
            kind=self.kind,
            family=self._bundle.family.name,
            hash=location.hash,
            inputs=self._inputs,
            metrics={name: score.value for name, score in self._bundle.metrics.items()},
            dimension=signature.dimension,
            levels=signature.levels,
            slices=signature.slices,
            runtime="onnx" if self._faster else "torch",
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

    def _warm_up(self, predict_threads: ThreadPoolExecutor, dimension: int | None) -> None:
        """Run the network once for each kind of query but videos: a broken one is not served, and no client waits.

        Raises:
            BundleError: it fails, or its vectors have another length than its signature says.
        """
        rows: Mapping[str, Row] = {"image": {"image": _noise(0)}, "text": {"text": "a"}}
        for name in self._inputs:
            if name not in rows:
                continue
            example = self.read(rows[name])
            [outcome] = predict_threads.submit(self.predict, [example]).result()
            if outcome.answer is None:
                raise BundleError(
                    f"bundle {self._bundle.path}: its network fails on a query of {name} "
                    f"({outcome.error}: {outcome.message}): train or publish it again"
                )
            if self.kind == "search" and len(outcome.answer["embedding"]) != dimension:
                raise BundleError(
                    f"bundle {self._bundle.path}: its network embeds {name} in {len(outcome.answer['embedding'])} "
                    f"dimensions, and its signature says {dimension}: fix the family's signature()"
                )

    def _run(self, examples: Sequence[Any]) -> list[Prediction]:
        from galleria.learn.examples import stack

        try:
            batch = stack(examples)
            outputs = self._outputs(batch)
            return [
                self._present({name: value[row] for name, value in outputs.items()}) for row in range(len(examples))
            ]
        except Exception as error:
            if len(examples) > 1:
                return [self._run([example])[0] for example in examples]
            logger.exception("the network failed on a row")
            return [self._failed(error)]

    def _outputs(self, batch: Mapping[str, Any]) -> Arrays:
        faster = self._faster.get(tuple(sorted(batch)))
        if faster is None:
            return self._eager(batch)
        self._on_start()
        return faster(batch)

    def _eager(self, batch: Mapping[str, Any]) -> Arrays:
        with TORCH_LOCK:
            self._on_start()
            inputs = {name: value.to(self._device) for name, value in batch.items()}
            return {name: value.cpu().numpy() for name, value in self._task.predict(inputs).items()}

    def _choose_runtime(self, onnx_threads: int, predict_threads: ThreadPoolExecutor) -> None:
        """Run pictures through ONNX Runtime where that is faster. Predict threads stay free while this exports."""
        from galleria.learn.examples import stack

        def eager(batch: Mapping[str, Any]) -> Arrays:
            return predict_threads.submit(self._eager, batch).result()

        outcomes = [self.read({"image": _noise(seed)}) for seed in range(BENCHMARK_ROWS)]
        examples = [outcome for outcome in outcomes if not isinstance(outcome, Prediction)]
        if len(examples) < BENCHMARK_ROWS:
            return
        batch = stack(examples)
        # ONNX Runtime's own threads have the priority of the thread that opens its session.
        with ThreadPoolExecutor(1, "export", lower_priority, (PREDICT_NICENESS,)) as export_thread:
            execution = export_thread.submit(
                faster_execution, self._task, batch, onnx_threads, eager, self._bundle.hash
            ).result()
        if execution is not None:
            self._faster[tuple(sorted(batch))] = execution

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


def _noise(seed: int) -> bytes:
    """Return a picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64)).save(file, "PNG")
    return file.getvalue()
