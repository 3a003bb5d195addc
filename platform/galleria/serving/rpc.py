"""Calls between deployments: a deadline, one retry where a replica died, and 503 where none can be reached."""

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from galleria.serving.schemas.problems import too_many_requests, unavailable

READY_SECONDS = 300.0
"""How long the replicas of a deployment may take to load a new release."""

LOST = (ActorDiedError, ActorUnavailableError)
"""The replica died with the request: Serve does not send it to another by itself."""


async def call(what: str, seconds: float, send: Callable[..., Any], *values: Any) -> Any:
    """Await what is sent.

    Raises:
        ProblemError: 429, `what` is overloaded; 503, too slow or away.
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
        raise too_many_requests(f"too many requests are waiting for {what}") from error
    except (*LOST, DeploymentUnavailableError, RequestCancelledError) as error:
        raise unavailable(f"{what} is not running: try again in a few seconds") from error
