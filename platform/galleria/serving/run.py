"""Runs the service for the duration of a `with` block."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from galleria.errors import ConfigurationError
from galleria.pipelines.cluster import ray_cluster
from galleria.serving.config import ServiceConfig
from galleria.serving.ingress import check_port_is_free, direct_ingress, route_in_own_loop

DRAIN_S = 1.0
"""Time between draining and stopping: Serve's proxy answers 404 to requests that it has not forwarded by then."""

OUTAGE_LIMIT_S = 180.0
"""How long the service may be down. Serve replaces a gateway that was killed in seconds, one that hangs in 40 s."""


@contextlib.contextmanager
def serving(
    config: ServiceConfig, host: str, port: int, deployments: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Iterator[str]:
    """Start the service, yield its address once it is ready, and stop it at the end.

    Args:
        config: the service's options.
        host: address to listen on.
        port: port to listen on.
        deployments: options of deployments, as in `deployments:` of a Ray Serve config file.

    Raises:
        ConfigurationError: another program listens on the port.
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
    """
    import ray

    starting = not ray.is_initialized()
    if starting and "RAY_ADDRESS" not in os.environ:
        check_port_is_free(host, port)
    with direct_ingress(port, has_one_replica(deployments.get("Gateway", {})), starting) as proxy_port, ray_cluster():
        route_in_own_loop()
        from ray import serve

        from galleria.serving.app import NAME, start

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets it to INFO
        gateway = start(config, host, proxy_port, deployments)
        try:
            yield f"http://{host}:{port}"
        finally:
            # Requests in flight are completed; `/readyz` fails, so that a load balancer sends new ones elsewhere.
            with contextlib.suppress(Exception):  # it may be what has failed
                gateway.broadcast("drain").results(timeout_s=DRAIN_S)
            time.sleep(DRAIN_S)
            serve.delete(NAME)


@contextlib.contextmanager
def end_if_interrupted() -> Iterator[None]:
    """End this process with exit code 0 at Ctrl-C or SIGTERM that the block does not expect: while it starts a service.

    Ray has SIGTERM raise SystemExit once it has begun to start. It is stopped by then, but some of its threads are not:
    they would abort the process while the interpreter ends.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _outage() -> str | None:
    from galleria.serving.app import outage

    return outage()


class OutageMonitor:
    """Notices that the service stays down, so that its process ends and whoever supervises it starts it again.

    Args:
        outage: returns why the service is down, or None.
        limit_s: how long it may be down, in seconds.
        clock: seconds.
    """

    def __init__(
        self,
        outage: Callable[[], str | None] = _outage,
        limit_s: float = OUTAGE_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outage = outage
        self._limit_s = limit_s
        self._clock = clock
        self._up_at = clock()

    def check(self) -> None:
        """Look at the service; call it every few seconds.

        Raises:
            ConfigurationError: it has been down for longer than the limit, and why.
        """
        cause = self._outage()
        if cause is None:
            self._up_at = self._clock()
        elif self._clock() - self._up_at > self._limit_s:
            raise ConfigurationError(f"the service has been down for {self._limit_s:g} s: {cause}")


def has_one_replica(options: Mapping[str, Any]) -> bool:
    """Return whether a deployment with these options always has one replica."""
    return options.get("num_replicas", 1) == 1 and not options.get("autoscaling_config")
