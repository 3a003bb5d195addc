"""The deployment that turns pictures and words into vectors, many at a time."""

import asyncio
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from ray import serve

from galleria.errors import BundleError, ConfigurationError, DataError
from galleria.serving.embedding import Description, Embedded
from galleria.serving.schemas import ServiceArguments

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
HEALTH_SECONDS = 20.0
"""A batch that takes longer counts as hung."""


class Embedder:
    """One replica: a bundle's network behind a queue that gathers queries into batches.

    Decoding and the network run in threads, so the event loop stays free to take queries and health checks.
    """

    def __init__(self, arguments: ServiceArguments, bundle_hash: str, health_seconds: float = HEALTH_SECONDS) -> None:
        """Open the bundle, build its network and embed one query of each kind.

        Raises:
            BundleError: the bundle is damaged, or not the one with `bundle_hash` that the index was built with.
            ConfigurationError: the bundle's family does not embed.
        """
        import torch

        from galleria.learn.bundle import Bundle

        self._bundle = Bundle.open(arguments.bundle)
        if self._bundle.hash != bundle_hash:
            raise BundleError(
                f"bundle {arguments.bundle} is {self._bundle.hash[:12]}, but the service was started for "
                f"{bundle_hash[:12]}: start it again with the index that belongs to the bundle"
            )
        self._health_seconds = health_seconds
        self._task = self._bundle.task()
        self._decoding = ThreadPoolExecutor(arguments.threads, "decode")
        # As wide as what is reserved: more threads than cores to run them slow it several times over.
        width = max(1, round(arguments.embedder_cpus))
        # One thread: batches follow one another through the network while the next is decoded.
        self._computing = ThreadPoolExecutor(1, "predict", torch.set_num_threads, (width,))
        probes = {name: self._embed_together([row])[0] for name, row in _probes().items()}
        vectors = {name: found.vector for name, found in probes.items() if found.vector is not None}
        if not vectors:
            raise ConfigurationError(
                f"family {self._bundle.family.name!r} does not embed pictures or texts: serve another bundle "
                f"({next(iter(probes.values())).message})"
            )
        self._description = Description(
            family=self._bundle.family.name,
            hash=bundle_hash,
            dimension=len(next(iter(vectors.values()))),
            inputs=tuple(vectors),
            metrics={name: score.value for name, score in self._bundle.metrics.items()},
        )
        self._batched: Callable[[Row], Any] = serve.batch(
            max_batch_size=arguments.batch_size, batch_wait_timeout_s=arguments.batch_wait_s, max_concurrent_batches=2
        )(self.embed_rows)

    async def __call__(self, row: Row) -> Embedded:
        """Embed {"image": bytes} or {"text": str}, together with whatever else is waiting."""
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

    async def embed_rows(self, rows: list[Row]) -> list[Embedded]:
        """One outcome for each row, in order; a row that cannot be used fails alone."""
        loop = asyncio.get_running_loop()
        read = await asyncio.gather(*(loop.run_in_executor(self._decoding, self._read, row) for row in rows))
        return await loop.run_in_executor(self._computing, self._predict, read)

    def _embed_together(self, rows: Sequence[Row]) -> list[Embedded]:
        return self._computing.submit(self._predict, [self._read(row) for row in rows]).result()

    def _read(self, row: Row) -> Row | Embedded:
        try:
            example = self._bundle.family.example(row, self._bundle.context, None)
            if not example:
                raise DataError(f"this model does not read {' or '.join(row)}: search with a picture or a vector")
            return example
        except DataError as error:
            return self._failed(error)
        except Exception as error:
            logger.exception("a query could not be read")
            return self._failed(error)

    def _predict(self, read: Sequence[Row | Embedded]) -> list[Embedded]:
        outcomes = [found if isinstance(found, Embedded) else None for found in read]
        groups: dict[tuple[str, ...], list[int]] = {}  # pictures and texts have different columns
        for place, found in enumerate(read):
            if not isinstance(found, Embedded):
                groups.setdefault(tuple(sorted(found)), []).append(place)
        for places in groups.values():
            for place, outcome in zip(places, self._run([read[place] for place in places]), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _run(self, examples: Sequence[Any]) -> list[Embedded]:
        from galleria.learn.examples import stack

        try:
            outputs = {name: value.cpu().numpy() for name, value in self._task.predict(stack(examples)).items()}
            return [
                self._present({name: value[row] for name, value in outputs.items()}) for row in range(len(examples))
            ]
        except Exception as error:
            if len(examples) > 1:
                return [self._run([example])[0] for example in examples]
            logger.exception("a query could not be embedded")
            return [self._failed(error)]

    def _present(self, outputs: Mapping[str, Any]) -> Embedded:
        vector = self._bundle.family.present(outputs, self._bundle.context.labels)["embedding"]
        return Embedded(self._bundle.hash, np.asarray(vector, np.float32))

    def _failed(self, error: Exception) -> Embedded:
        return Embedded(self._bundle.hash, error=type(error).__name__, message=str(error))


def _nothing() -> None:
    """What a health check runs in the network's thread."""


def _probes() -> dict[str, Row]:
    white = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 255, 255)).save(white, "PNG")
    return {"image": {"image": white.getvalue()}, "text": {"text": "a"}}
