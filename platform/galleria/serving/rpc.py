"""Calls between deployments: a deadline, one retry where a replica died, and 503 where none can be reached."""

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from galleria.serving.schemas.problems import too_many_requests, unavailable

READY_TIMEOUT_S = 300.0
"""How long the replicas of a deployment may take to load a new release."""

LOST = (ActorDiedError, ActorUnavailableError)
"""Errors of a replica that died with the request: Serve does not send it to another replica by itself."""


async def call(what: str, timeout_s: float, send: Callable[..., Any], *values: Any) -> Any:
    """Send a request and return its result.

    Args:
        what: is called, for messages.
        timeout_s: for both attempts together, in seconds.
        send: sends `values`; returns an awaitable.
        values: arguments of `send`.

    Raises:
        ProblemError: 429, `what` is overloaded; 503, it is too slow or cannot be reached.
    """
    try:
        async with asyncio.timeout(timeout_s):
            try:
                return await send(*values)
            except LOST:
                return await send(*values)
    except TimeoutError as error:
        raise unavailable(f"{what} took longer than {timeout_s:g} s: try again") from error
    except BackPressureError as error:
        raise too_many_requests(f"too many requests are waiting for {what}") from error
    except (*LOST, DeploymentUnavailableError, RequestCancelledError) as error:
        raise unavailable(f"{what} is not running: try again in a few seconds") from error
