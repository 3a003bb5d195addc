"""Reaches the embedder over a Serve handle: a deadline, one retry, and 503 where it cannot be reached."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from galleria.serving.embedding import Description, Embedded
from galleria.serving.problems import unavailable

LOST = (ActorDiedError, ActorUnavailableError)
"""The replica died with the request: Serve does not send it to another by itself."""


class RemoteEmbedder:
    """Calls the `Embedder` deployment.

    Args:
        handle: its handle.
        seconds: how long a call may take.
    """

    def __init__(self, handle: Any, seconds: float) -> None:
        self._handle = handle
        self._seconds = seconds

    async def embed(self, row: Mapping[str, Any]) -> Embedded:
        """Embed {"image": bytes} or {"text": str}.

        Raises:
            RefusedError: 503, the embedder is overloaded, too slow or away.
        """
        found: Embedded = await self._call(self._handle.remote, row)
        return found

    async def describe(self) -> Description:
        """What is running.

        Raises:
            RefusedError: 503, as `embed`.
        """
        description: Description = await self._call(self._handle.describe.remote)
        return description

    async def _call(self, send: Callable[..., Any], *values: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                try:
                    return await send(*values)
                except LOST:
                    return await send(*values)
        except TimeoutError as error:
            raise unavailable(f"the embedder took longer than {self._seconds:g} s: try again") from error
        except BackPressureError as error:
            raise unavailable("too many queries are waiting for the embedder: try again") from error
        except (*LOST, DeploymentUnavailableError, RequestCancelledError) as error:
            raise unavailable("the embedder is not running: try again in a few seconds") from error
