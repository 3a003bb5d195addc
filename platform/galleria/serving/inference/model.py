"""One bundle's network: rows to answers, many at a time."""

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
from galleria.serving.config import SEARCH, BundleLocation, Kind
from galleria.serving.inference.onnx import Arrays, Execution, faster_execution
from galleria.serving.inference.types import Description, Prediction

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
MEDIA = ("image", "text", "video")
"""What a row asks about; whatever else it holds are options."""

NICENESS = 5
"""Of the threads that networks run in: what answers quickly, the event loop above all, goes first."""

PROBED = 4
"""Pictures of the batch that ways to run the network are compared with."""

ONE = Lock()
"""PyTorch's networks take turns in a process, since each takes all the threads that there are."""

READS = {"search": "search with a picture or a vector", "classify": "send a picture", "events": "send a video"}


class LoadedModel:
    """A bundle that is ready to answer.

    Attributes:
        description: what it is.
    """

    def __init__(
        self,
        place: BundleLocation,
        name: str,
        computing: ThreadPoolExecutor,
        threads: int = 0,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """Open a bundle and build its network.

        Args:
            place: where it is, and which it must be.
            name: of the model.
            computing: threads that networks run in.
            threads: that ONNX Runtime may use for pictures, where it is faster; 0 for PyTorch in any case.
            began: is called in the thread of a batch as soon as it waits for no other.

        Raises:
            BundleError: the bundle is damaged, or not the one that is meant.
            ConfigurationError: the bundle's family does not do what the model is there for.
        """
        import torch

        from galleria.learn.bundle import Bundle

        self._began = began
        self._bundle = Bundle.open(place.path)
        if self._bundle.hash != place.hash:
            raise BundleError(
                f"bundle {place.path} is {self._bundle.hash[:12]}, but the service was started for {place.hash[:12]}: "
                "start it again with bundles, table and index that belong together"
            )
        self.kind = _kind(self._bundle.family, name)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._task = self._bundle.task().to(self._device)
        self._faster: dict[tuple[str, ...], Execution] = {}
        signature = self._task.signature()
        self._inputs = signature.inputs
        if threads and "image" in self._inputs and self._device.type == "cpu":
            self._speed_up(threads, computing)
        self.description = Description(
            kind=self.kind,
            family=self._bundle.family.name,
            hash=place.hash,
            inputs=self._inputs,
            metrics={name: score.value for name, score in self._bundle.metrics.items()},
            dimension=signature.dimension,
            levels=signature.levels,
            slices=signature.slices,
            runtime="onnx" if self._faster else "torch",
        )

    def read(self, row: Row) -> Row | Prediction:
        """The example that a row makes, or what is wrong with it. May run in any thread."""
        try:
            example = self._bundle.family.example(row, self._bundle.context, None)
            if not example or not set(row) & set(self._inputs):
                raise DataError(f"this model does not read {' or '.join(row)}: {READS[self.kind]}")
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

    def predict(self, read: Sequence[Row | Prediction]) -> list[Prediction]:
        """One outcome for each, in order; a row that cannot be answered fails alone. For a thread of `computing`."""
        outcomes = [found if isinstance(found, Prediction) else None for found in read]
        groups: dict[tuple[str, ...], list[int]] = {}  # pictures, texts and options have different columns
        for place, found in enumerate(read):
            if not isinstance(found, Prediction):
                groups.setdefault(tuple(sorted(found)), []).append(place)
        for places in groups.values():
            for place, outcome in zip(places, self._run([read[place] for place in places]), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

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
            logger.exception("a row could not be answered")
            return [self._failed(error)]

    def _outputs(self, batch: Mapping[str, Any]) -> Arrays:
        faster = self._faster.get(tuple(sorted(batch)))
        if faster is None:
            return self._eager(batch)
        self._began()
        return faster(batch)

    def _eager(self, batch: Mapping[str, Any]) -> Arrays:
        with ONE:
            self._began()
            there = {name: value.to(self._device) for name, value in batch.items()}
            return {name: value.cpu().numpy() for name, value in self._task.predict(there).items()}

    def _speed_up(self, threads: int, computing: ThreadPoolExecutor) -> None:
        """Find what runs pictures faster. The threads for networks are free for others while this exports."""
        from galleria.learn.examples import stack

        def eager(batch: Mapping[str, Any]) -> Arrays:
            return computing.submit(self._eager, batch).result()

        examples = [self.read({"image": _noise(seed)}) for seed in range(PROBED)]
        read = [example for example in examples if not isinstance(example, Prediction)]
        if len(read) == PROBED:
            batch = stack(read)
            # ONNX Runtime's own threads are as patient as the one that opens its session.
            with ThreadPoolExecutor(1, "export", lower_priority, (NICENESS,)) as patient:
                found = patient.submit(faster_execution, self._task, batch, threads, eager, self._bundle.hash).result()
            if found is not None:
                self._faster[tuple(sorted(batch))] = found

    def _present(self, outputs: Mapping[str, Any]) -> Prediction:
        answer = dict(self._bundle.family.present(outputs, self._bundle.context.labels))
        if self.kind == "search":
            answer["embedding"] = np.asarray(answer["embedding"], np.float32)
        return Prediction(self._bundle.hash, answer)

    def _failed(self, error: Exception) -> Prediction:
        return Prediction(self._bundle.hash, error=type(error).__name__, message=str(error))


def _kind(family: Any, name: str) -> Kind:
    """What a family is asked for, by its contract alone."""
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
    """A picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64)).save(file, "PNG")
    return file.getvalue()
