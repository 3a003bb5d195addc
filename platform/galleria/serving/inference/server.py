"""Runs a model, in a deployment or in the gateway: pictures, words and videos to answers, many at a time."""

import asyncio
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock, get_ident
from typing import Any

from galleria.background import lower_priority
from galleria.lru_cache import LRUCache
from galleria.serving.config import SEARCH, BundleLocation, ServiceConfig
from galleria.serving.inference.batching import DynamicBatcher
from galleria.serving.inference.model import NICENESS, LoadedModel
from galleria.serving.inference.types import Description, Prediction
from galleria.serving.resolve import ResolvedAlias, in_use

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
HEALTH_SECONDS = 20.0
"""A batch that takes longer counts as hung."""

RUNS = 2
"""DynamicBatcher that go through a network at a time: a core that one leaves idle, the other takes."""

KEPT = 3
"""Bundles that stay loaded, those that were asked last: what a name stands for, stood for, and one to try out."""


class ModelServer:
    """Networks behind a queue that gathers rows into batches: a replica of a deployment, or part of a gateway.

    Every row says which bundle is to answer it: a model's name may stand for another one tomorrow, and both answer
    while requests go over from one to the other. Decoding and the network run in threads, so the event loop stays
    free to take queries and health checks.
    """

    def __init__(
        self, config: ServiceConfig, name: str, choice: ResolvedAlias, health_seconds: float = HEALTH_SECONDS
    ) -> None:
        """Load the bundles that the model `name` stands for now; `choice` is what it stood for at first.

        Raises:
            GalleriaError: as `LoadedModel`.
        """
        self._name = name
        self._health_seconds = health_seconds
        self._decoding = ThreadPoolExecutor(config.threads, "decode")
        width = _width(config, name)
        self._computing = ThreadPoolExecutor(min(RUNS, width), "predict", _prepare, (width,))
        self._running: dict[int, float] = {}  # when the batch in a thread began, or infinity while it waits for others
        self._threads = width if config.runtime == "auto" else 0
        self._loaded = LRUCache[BundleLocation, LoadedModel](KEPT)
        self._loading = Lock()
        models = [self.load(offer.bundle) for offer in in_use(config, name, choice).offers]
        # The frames of a video are a batch already: videos go one by one, so that none waits for another's end.
        together = 1 if models[0].kind == "events" else config.batch_size
        self._batches = DynamicBatcher(
            self._answer, together, RUNS + 1
        )  # one is decoded while others are in the network

    async def __call__(self, row: Row, place: BundleLocation) -> Prediction:
        """Answer for {"image": bytes}, {"text": str} or {"video": bytes}, together with whatever else is waiting."""
        return await self._batches((row, place))

    async def describe(self, place: BundleLocation) -> Description:
        """What a bundle is; loads it where it is not yet, and answers only while a thread for networks does."""
        await self.check_health()
        return (await self._model(place)).description

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that fails.

        Raises:
            TimeoutError: a network is stuck.
        """
        loop = asyncio.get_running_loop()
        longest = time.monotonic() - min([*self._running.values(), math.inf])
        if longest > self._health_seconds:
            raise TimeoutError(f"a batch has been in the network for {longest:.0f} s")
        async with asyncio.timeout(self._health_seconds):
            await loop.run_in_executor(self._computing, _nothing)

    async def predict_rows(self, rows: Sequence[Row], place: BundleLocation) -> list[Prediction]:
        """One outcome for each row, in order; a row that cannot be used fails alone."""
        loop = asyncio.get_running_loop()
        model = await self._model(place)
        read = await asyncio.gather(*(loop.run_in_executor(self._decoding, model.read, row) for row in rows))
        return await loop.run_in_executor(self._computing, self._predict, model, read)

    def load(self, place: BundleLocation) -> LoadedModel:
        """Have a bundle ready to answer. For any thread but the event loop's.

        Raises:
            GalleriaError: as `LoadedModel`.
        """
        with self._loading:
            found = self._loaded.get(place)
            if found is None:
                found = LoadedModel(place, self._name, self._computing, self._threads, self._began)
                self._loaded.put(place, found)
            return found

    def _predict(self, model: LoadedModel, read: Sequence[Row | Prediction]) -> list[Prediction]:
        self._running[get_ident()] = math.inf
        try:
            return model.predict(read)
        finally:
            del self._running[get_ident()]

    def _began(self) -> None:
        if get_ident() in self._running:  # else it is a model that is being loaded
            self._running[get_ident()] = time.monotonic()

    async def _answer(self, asked: list[tuple[Row, BundleLocation]]) -> list[Prediction]:
        places = dict.fromkeys(place for _, place in asked)
        rows = {place: [row for row, wanted in asked if wanted == place] for place in places}
        found = await asyncio.gather(*(self._answer_one(rows[place], place) for place in places))
        outcomes = dict(zip(places, map(iter, found), strict=True))
        return [replace(next(outcomes[place]), together=len(rows[place])) for _, place in asked]

    async def _answer_one(self, rows: Sequence[Row], place: BundleLocation) -> list[Prediction]:
        """As `predict_rows`; a bundle that cannot be loaded fails its own rows, and not those of another."""
        try:
            return await self.predict_rows(rows, place)
        except Exception as error:
            logger.exception("bundle %s could not be asked", place.path)
            return [Prediction(place.hash, error=type(error).__name__, message=str(error)) for _ in rows]

    async def _model(self, place: BundleLocation) -> LoadedModel:
        found = self._loaded.get(place)
        return await asyncio.to_thread(self.load, place) if found is None else found


def _prepare(width: int) -> None:
    """A thread for networks."""
    import torch

    torch.set_num_threads(width)
    lower_priority(NICENESS)


def _width(config: ServiceConfig, name: str) -> int:
    """Threads of a network: more than cores to run them slow it several times over."""
    if config.inference == "deployed":
        return max(1, round(config.search_cpus if name == SEARCH else config.model_cpus))
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return round(config.gateway_cpus) or there or 1


def _nothing() -> None:
    """What a health check runs where networks do."""
