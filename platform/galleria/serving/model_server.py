"""The deployment that runs one bundle: pictures, words and videos to answers, many at a time."""

import asyncio
import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from ray import serve

from galleria.errors import BundleError, ConfigurationError, DataError
from galleria.serving.arguments import SEARCH, Kind, ServiceArguments
from galleria.serving.prediction import Description, Prediction
from galleria.serving.queries import MOST_LEVELS

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
MEDIA = ("image", "text", "video")
"""What a row asks about; whatever else it holds are options."""

READS = {"search": "search with a picture or a vector", "classify": "send a picture", "events": "send a video"}
HEALTH_SECONDS = 20.0
"""A batch that takes longer counts as hung."""


class ModelServer:
    """One replica: a bundle's network behind a queue that gathers rows into batches.

    Decoding and the network run in threads, so the event loop stays free to take queries and health checks.
    """

    def __init__(
        self, arguments: ServiceArguments, name: str, bundle_hash: str, health_seconds: float = HEALTH_SECONDS
    ) -> None:
        """Open the bundle of the model `name`, build its network and ask it once about each kind of row.

        Raises:
            BundleError: the bundle is damaged, or not the one with `bundle_hash` that the service was started for.
            ConfigurationError: the bundle's family does not do what the model is there for.
        """
        import torch

        from galleria.learn.bundle import Bundle

        path = arguments.bundles[name]
        self._bundle = Bundle.open(path)
        if self._bundle.hash != bundle_hash:
            raise BundleError(
                f"bundle {path} is {self._bundle.hash[:12]}, but the service was started for {bundle_hash[:12]}: "
                "start it again with bundles, table and index that belong together"
            )
        self._kind = _kind(self._bundle.family, name)
        self._health_seconds = health_seconds
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._task = self._bundle.task().to(self._device)
        self._decoding = ThreadPoolExecutor(arguments.threads, "decode")
        # As wide as what is reserved: more threads than cores to run them slow it several times over.
        width = max(1, round(arguments.search_cpus if name == SEARCH else arguments.model_cpus))
        # One thread: batches follow one another through the network while the next is decoded.
        self._computing = ThreadPoolExecutor(1, "predict", torch.set_num_threads, (width,))
        self._inputs: tuple[str, ...] = MEDIA
        self._inputs, dimension = self._probe()
        self._description = Description(
            kind=self._kind,
            family=self._bundle.family.name,
            hash=bundle_hash,
            inputs=self._inputs,
            metrics={name: score.value for name, score in self._bundle.metrics.items()},
            dimension=dimension,
            levels=self._levels() if self._kind == "search" else 0,
            slices=tuple(
                width for width in getattr(self._bundle.context.config, "slices", ()) if width < (dimension or 0)
            ),
        )
        # The frames of a video are a batch already: videos go one by one, so that none waits for another's end.
        together = 1 if self._kind == "events" else arguments.batch_size
        self._batched: Callable[[Row], Any] = serve.batch(
            max_batch_size=together, batch_wait_timeout_s=arguments.batch_wait_s, max_concurrent_batches=2
        )(self.predict_rows)

    async def __call__(self, row: Row) -> Prediction:
        """Answer for {"image": bytes}, {"text": str} or {"video": bytes}, together with whatever else is waiting."""
        return await self._batched(row)  # type: ignore[no-any-return]

    async def describe(self) -> Description:
        """What is running; answers only while the network's thread does."""
        await self.check_health()
        return self._description

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that fails.

        Raises:
            TimeoutError: the network's thread is stuck.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._health_seconds):
            await loop.run_in_executor(self._computing, _nothing)

    async def predict_rows(self, rows: list[Row]) -> list[Prediction]:
        """One outcome for each row, in order; a row that cannot be used fails alone."""
        loop = asyncio.get_running_loop()
        read = await asyncio.gather(*(loop.run_in_executor(self._decoding, self._read, row) for row in rows))
        return await loop.run_in_executor(self._computing, self._predict, read)

    def _probe(self) -> tuple[tuple[str, ...], int | None]:
        """What the model reads, and the length of its vectors. A video is not made up: it is taken at its word."""
        if self._kind == "events":
            return ("video",), None
        rows = {name: row for name, row in _probes().items() if name in self._bundle.family.schema.names}
        found = {name: self._computing.submit(self._predict, [self._read(row)]).result() for name, row in rows.items()}
        answers = {name: outcomes[0].answer for name, outcomes in found.items() if outcomes[0].answer is not None}
        if not answers:
            reasons = "; ".join(outcomes[0].message for outcomes in found.values())
            raise ConfigurationError(
                f"family {self._bundle.family.name!r} answers for neither pictures nor texts: serve another bundle "
                f"({reasons})"
            )
        vector = next(iter(answers.values()))["embedding"] if self._kind == "search" else None
        return tuple(answers), None if vector is None else len(vector)

    def _levels(self) -> int:
        """How many weights the family takes for the levels of its vectors."""
        for count in range(1, MOST_LEVELS + 1):
            row = {**_probes()["image"], "level_weights": [1.0] * count}
            with contextlib.suppress(DataError):
                if "level_weights" in self._bundle.family.example(row, self._bundle.context, None):
                    return count
        return 0

    def _read(self, row: Row) -> Row | Prediction:
        try:
            example = self._bundle.family.example(row, self._bundle.context, None)
            if not example or not set(row) & set(self._inputs):
                raise DataError(f"this model does not read {' or '.join(row)}: {READS[self._kind]}")
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

    def _predict(self, read: Sequence[Row | Prediction]) -> list[Prediction]:
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
            batch = {name: value.to(self._device) for name, value in stack(examples).items()}
            outputs = {name: value.cpu().numpy() for name, value in self._task.predict(batch).items()}
            return [
                self._present({name: value[row] for name, value in outputs.items()}) for row in range(len(examples))
            ]
        except Exception as error:
            if len(examples) > 1:
                return [self._run([example])[0] for example in examples]
            logger.exception("a row could not be answered")
            return [self._failed(error)]

    def _present(self, outputs: Mapping[str, Any]) -> Prediction:
        answer = dict(self._bundle.family.present(outputs, self._bundle.context.labels))
        if self._kind == "search":
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


def _nothing() -> None:
    """What a health check runs in the network's thread."""


def _probes() -> dict[str, Row]:
    white = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 255, 255)).save(white, "PNG")
    return {"image": {"image": white.getvalue()}, "text": {"text": "a"}}
