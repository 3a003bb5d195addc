"""Reaches a model over a Serve handle: a deadline, one retry, and 503 where it cannot be reached."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from galleria.serving.prediction import Description, Prediction
from galleria.serving.problems import unavailable

LOST = (ActorDiedError, ActorUnavailableError)
"""The replica died with the request: Serve does not send it to another by itself."""


class RemoteModel:
    """Calls a `ModelServer` deployment.

    Args:
        handle: its handle.
        name: what it is called in messages.
        seconds: how long a call may take.
        video_seconds: the same, of a call with a video.
    """

    def __init__(self, handle: Any, name: str, seconds: float, video_seconds: float) -> None:
        self._handle = handle
        self._name = name
        self._seconds = seconds
        self._video_seconds = video_seconds

    async def predict(self, row: Mapping[str, Any]) -> Prediction:
        """As `Predicts.predict`.

        Raises:
            RefusedError: 503, the model is overloaded, too slow or away.
        """
        seconds = self._video_seconds if "video" in row else self._seconds
        found: Prediction = await self._call(seconds, self._handle.remote, row)
        return found

    async def describe(self) -> Description:
        """What is running.

        Raises:
            RefusedError: 503, as `predict`.
        """
        description: Description = await self._call(self._seconds, self._handle.describe.remote)
        return description

    async def _call(self, seconds: float, send: Callable[..., Any], *values: Any) -> Any:
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await send(*values)
                except LOST:
                    return await send(*values)
        except TimeoutError as error:
            raise unavailable(f"model {self._name!r} took longer than {seconds:g} s: try again") from error
        except BackPressureError as error:
            raise unavailable(f"too many queries are waiting for model {self._name!r}: try again") from error
        except (*LOST, DeploymentUnavailableError, RequestCancelledError) as error:
            raise unavailable(f"model {self._name!r} is not running: try again in a few seconds") from error
