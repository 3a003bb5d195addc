"""Runs the service for the duration of a `with` block."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from galleria.pipelines.cluster import ray_cluster
from galleria.serving.config import ServiceConfig
from galleria.serving.ingress import check_port_is_free, direct_ingress, route_in_own_loop

DRAIN_S = 1.0
"""Time between draining and stopping: Serve's proxy answers 404 to requests that it has not forwarded by then."""


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


def has_one_replica(options: Mapping[str, Any]) -> bool:
    """Return whether a deployment with these options always has one replica."""
    return options.get("num_replicas", 1) == 1 and not options.get("autoscaling_config")
