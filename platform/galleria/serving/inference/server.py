"""Runs the bundles of a model, in a deployment or in the gateway, on batches of rows."""

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Thread, get_ident
from typing import Any

import ray

from galleria.background import lower_priority
from galleria.media.isolated import IsolatedDecoder
from galleria.serving.config import BundleLocation, ServiceConfig
from galleria.serving.garbage import freeze_heap
from galleria.serving.inference.batching import DynamicBatcher
from galleria.serving.inference.model import PREDICT_NICENESS, LoadedModel
from galleria.serving.inference.types import Description, Prediction
from galleria.serving.open_cache import OpenCache
from galleria.serving.resolve import ReleaseRef, resolve_current
from galleria.serving.traffic_split import TrafficSplit

logger = logging.getLogger("ray.serve")

Row = Mapping[str, Any]
HEALTH_TIMEOUT_S = 20.0
"""A batch that takes longer counts as hung."""

DECODE_TIME_FRACTION = 0.8
"""Fraction of a model's time for a query after which its picture or video is given up."""

MAX_PREDICT_THREADS = 2
"""Batches in a network at a time: one uses the cores that the other leaves idle."""

MAX_LOADED_BUNDLES = 3
"""The bundle in use, the one before it, and that of a canary."""


class ModelServer:
    """Networks behind a queue that batches rows: a replica of a deployment, or part of a gateway.

    Every row names its bundle: a model's name may resolve to another one tomorrow, and both run while requests go
    over from one to the other. Threads run the network and read the rows, so the event loop stays free to take
    requests and health checks; child processes decode the pictures and videos, one for each thread.
    """

    def __init__(
        self,
        config: ServiceConfig,
        name: str,
        started: TrafficSplit[ReleaseRef],
        health_timeout_s: float = HEALTH_TIMEOUT_S,
    ) -> None:
        """Load the bundles that the model `name` resolves to now; `started` is what it resolved to at first.

        Raises:
            GalleriaError: as `LoadedModel`.
        """
        self._name = name
        self._health_timeout_s = health_timeout_s
        self._decode_threads = ThreadPoolExecutor(config.threads, "decode")
        self._decoder = IsolatedDecoder(
            DECODE_TIME_FRACTION * config.predict_timeout_s, DECODE_TIME_FRACTION * config.video_timeout_s
        )
        width = _network_threads(config)
        self._predict_threads = ThreadPoolExecutor(
            min(MAX_PREDICT_THREADS, width), "predict", lower_priority, (PREDICT_NICENESS,)
        )
        self._running: dict[int, float] = {}  # thread → start of its batch, or infinity while that waits for others
        self._load_model = partial(
            LoadedModel,
            name=name,
            predict_threads=self._predict_threads,
            threads=width,
            runtime=config.runtime,
            on_start=self._on_start,
            decoder=self._decoder,
        )
        self._models = OpenCache[BundleLocation, LoadedModel](MAX_LOADED_BUNDLES, self._load_model)
        models = [self.load(reference.bundle) for reference in resolve_current(config, name, started).all]
        # The frames of a video are a batch already: videos run one by one, so that none waits for another's end.
        max_batch_size = 1 if models[0].kind == "events" else config.max_batch_size
        self._decoder.start("video" if models[0].kind == "events" else "image", config.threads)
        # One more batch than threads: it is decoded while the others are in the network.
        self._batcher = DynamicBatcher(self._predict_batch, max_batch_size, MAX_PREDICT_THREADS + 1)
        if config.inference == "deployed":  # else the gateway does so
            freeze_heap()
            import_torch_in_background()

    async def predict(self, row: Row, location: BundleLocation) -> Prediction:
        """Run a bundle on {"image": bytes}, {"text": str} or {"video": bytes}, in a batch with other rows."""
        return await self._batcher((row, location))

    async def describe(self, location: BundleLocation) -> Description:
        """Describe a bundle; load it where it is not. Returns only while a thread for networks is free."""
        await self.check_health()
        return (await self._model(location)).description

    async def check_health(self) -> None:
        """Wait for a thread for networks. Called by Serve, which replaces a replica that fails.

        Raises:
            TimeoutError: a network is stuck.
        """
        self.check_batches()
        async with asyncio.timeout(self._health_timeout_s):
            await asyncio.get_running_loop().run_in_executor(self._predict_threads, _nothing)

    def check_batches(self) -> None:
        """Check that no batch is stuck; returns at once.

        Raises:
            TimeoutError: a network is stuck.
        """
        longest_s = time.monotonic() - min([*self._running.values(), math.inf])
        if longest_s > self._health_timeout_s:
            raise TimeoutError(f"a batch has been in the network for {longest_s:.0f} s")

    async def predict_rows(self, rows: Sequence[Row], location: BundleLocation) -> list[Prediction]:
        """Run a bundle on rows; return one outcome each, in order. A row that cannot be used fails alone."""
        loop = asyncio.get_running_loop()
        model = await self._model(location)
        examples = await asyncio.gather(*(loop.run_in_executor(self._decode_threads, model.read, row) for row in rows))
        return await loop.run_in_executor(self._predict_threads, self._predict, model, examples)

    def load(self, location: BundleLocation) -> LoadedModel:
        """Return a bundle that is ready to run. Blocks: not for the event loop.

        Raises:
            GalleriaError: as `LoadedModel`.
        """
        return self._models.open(location)

    def _predict(self, model: LoadedModel, examples: Sequence[Row | Prediction]) -> list[Prediction]:
        self._running[get_ident()] = math.inf
        try:
            return model.predict(examples)
        finally:
            del self._running[get_ident()]

    def _on_start(self) -> None:
        if get_ident() in self._running:  # else a model is being loaded
            self._running[get_ident()] = time.monotonic()

    async def _predict_batch(self, batch: list[tuple[Row, BundleLocation]]) -> list[Prediction]:
        rows: dict[BundleLocation, list[Row]] = {}
        for row, location in batch:
            rows.setdefault(location, []).append(row)
        predictions = await asyncio.gather(*(self._predict_bundle(rows[location], location) for location in rows))
        remaining = dict(zip(rows, map(iter, predictions), strict=True))
        return [replace(next(remaining[location]), batch_size=len(rows[location])) for _, location in batch]

    async def _predict_bundle(self, rows: Sequence[Row], location: BundleLocation) -> list[Prediction]:
        """As `predict_rows`; a bundle that cannot be loaded fails its own rows, and not those of another."""
        try:
            return await self.predict_rows(rows, location)
        except Exception as error:
            logger.exception("bundle %s cannot be run", location.path)
            return [Prediction(location.hash, error=type(error).__name__, message=str(error)) for _ in rows]

    async def _model(self, location: BundleLocation) -> LoadedModel:
        model = self._models.get(location)
        return await asyncio.to_thread(self.load, location) if model is None else model


def import_torch_in_background() -> None:
    """Import PyTorch, which resizes pictures, once the service is there: the first pictures wait for it."""
    if "torch" not in sys.modules:
        Thread(target=_import_torch, name="import torch").start()


def _import_torch() -> None:
    import torch  # noqa: F401

    freeze_heap()


def _network_threads(config: ServiceConfig) -> int:
    """Return the number of threads of a network: more threads than cores slow it several times over."""
    reserved = round(_reserved_cpus())
    if config.inference == "deployed":
        return max(1, reserved)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return reserved or cores or 1


def _reserved_cpus() -> float:
    """Return the CPUs that Ray reserves for the actor that this runs in; 0 outside of one."""
    if not ray.is_initialized():
        return 0
    context = ray.get_runtime_context()
    if context.get_actor_id() is None:
        return 0
    return float(context.get_assigned_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def _nothing() -> None:
    """Do nothing, in a thread for networks."""
