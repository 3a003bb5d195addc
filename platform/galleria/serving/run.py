"""Serves for as long as a block lasts."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from galleria.pipelines.cluster import ray_cluster
from galleria.serving.config import ServiceConfig
from galleria.serving.ingress import check_free, direct_ingress, use_own_loop

GRACE_SECONDS = 1.0
"""Between the wish to end and the end: Serve's proxy answers 404 to what it has not handed on by then."""


@contextlib.contextmanager
def serving(
    config: ServiceConfig, host: str, port: int, deployments: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Iterator[str]:
    """Start the service, yield its address once it is ready, and take it down at the end.

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
        check_free(host, port)
    with direct_ingress(port, has_one_replica(deployments.get("Gateway", {})), starting) as proxy_port, ray_cluster():
        use_own_loop()
        from ray import serve

        from galleria.serving.app import NAME, start

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets it to INFO
        gateway = start(config, host, proxy_port, deployments)
        try:
            yield f"http://{host}:{port}"
        finally:
            # Whoever has asked already is answered; who asks whether it is ready is told to go elsewhere.
            with contextlib.suppress(Exception):  # it may be what has failed
                gateway.broadcast("drain").results(timeout_s=GRACE_SECONDS)
            time.sleep(GRACE_SECONDS)
            serve.delete(NAME)


def has_one_replica(options: Mapping[str, Any]) -> bool:
    """Return whether a deployment with these options always has one replica."""
    return options.get("num_replicas", 1) == 1 and not options.get("autoscaling_config")
