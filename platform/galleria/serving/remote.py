"""Reaches models and the writer: a deadline, one retry where a replica died, and 503 where none can be reached."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from galleria.catalog.writer import Written
from galleria.errors import GalleriaError
from galleria.serving.arguments import BundlePlace, CatalogPlace
from galleria.serving.prediction import Description, Prediction
from galleria.serving.problems import crowded, unavailable

READY_SECONDS = 300.0
"""How long the replicas of a deployment may take to load a new release."""

LOST = (ActorDiedError, ActorUnavailableError)
"""The replica died with the request: Serve does not send it to another by itself."""


class Reached(NamedTuple):
    """How a model's `ModelServer` is reached, wherever it runs.

    Attributes:
        predict: answers for one row by a bundle.
        describe: says what a bundle is.
        load: has a bundle ready everywhere; returns once it is. Not for the event loop.
    """

    predict: Callable[[Mapping[str, Any], BundlePlace], Awaitable[Prediction]]
    describe: Callable[[BundlePlace], Awaitable[Description]]
    load: Callable[[BundlePlace], object]


def deployed(handle: Any) -> Reached:
    """Over the handle of a deployment."""
    return Reached(
        handle.remote,
        handle.describe.remote,
        lambda place: handle.broadcast("describe", place).results(timeout_s=READY_SECONDS),
    )


class ModelClient:
    """Asks a model by one bundle.

    Args:
        reached: the model.
        name: what it is called in messages.
        place: the bundle that is to answer.
        seconds: how long a call may take.
        video_seconds: the same, of a call with a video.
    """

    def __init__(self, reached: Reached, name: str, place: BundlePlace, seconds: float, video_seconds: float) -> None:
        self._reached = reached
        self._place = place
        self._name = name
        self._seconds = seconds
        self._video_seconds = video_seconds

    async def predict(self, row: Mapping[str, Any]) -> Prediction:
        """As `Predicts.predict`.

        Raises:
            RefusedError: 429, the model is overloaded; 503, too slow or away.
        """
        seconds = self._video_seconds if "video" in row else self._seconds
        found: Prediction = await self._call(seconds, self._reached.predict, row, self._place)
        return found

    async def describe(self) -> Description:
        """What is running.

        Raises:
            RefusedError: 503, as `predict`.
        """
        description: Description = await self._call(self._seconds, self._reached.describe, self._place)
        return description

    async def _call(self, seconds: float, send: Callable[..., Any], *values: Any) -> Any:
        return await call(f"model {self._name!r}", seconds, send, *values)


class RemoteWriter:
    """Calls a `WriterServer` deployment. Both kinds of write may be sent twice: the second finds nothing to do.

    Args:
        handle: its handle.
        place: table to write, and its index.
        seconds: how long a write may take.
    """

    def __init__(self, handle: Any, place: CatalogPlace, seconds: float) -> None:
        self._handle = handle
        self._place = place
        self._seconds = seconds

    async def put(self, items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32]) -> Written:
        """As `Writes.put`.

        Raises:
            GalleriaError: the writer's own.
            RefusedError: 503, it cannot be reached.
        """
        return await self._write(self._handle.put.remote, self._place, items, vectors)

    async def delete(self, ids: Sequence[str]) -> Written:
        """As `Writes.delete`. Raises as `put`."""
        return await self._write(self._handle.delete.remote, self._place, ids)

    async def _write(self, send: Callable[..., Any], *values: Any) -> Written:
        outcome: Written | GalleriaError = await call("the writer", self._seconds, send, *values)
        if isinstance(outcome, GalleriaError):
            raise outcome
        return outcome


async def call(what: str, seconds: float, send: Callable[..., Any], *values: Any) -> Any:
    """Await what is sent.

    Raises:
        RefusedError: 429, `what` is overloaded; 503, too slow or away.
    """
    try:
        async with asyncio.timeout(seconds):
            try:
                return await send(*values)
            except LOST:
                return await send(*values)
    except TimeoutError as error:
        raise unavailable(f"{what} took longer than {seconds:g} s: try again") from error
    except BackPressureError as error:
        raise crowded(f"too many requests are waiting for {what}") from error
    except (*LOST, DeploymentUnavailableError, RequestCancelledError) as error:
        raise unavailable(f"{what} is not running: try again in a few seconds") from error
