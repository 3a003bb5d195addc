"""Serves for as long as a block lasts."""

import contextlib
import logging
from collections.abc import Iterator

from galleria.pipelines.cluster import ray_cluster
from galleria.serving.arguments import ServiceArguments


@contextlib.contextmanager
def serving(arguments: ServiceArguments, host: str, port: int) -> Iterator[str]:
    """Start the service, yield its address once it is ready, and take it down at the end.

    Raises:
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
    """
    with ray_cluster():
        from ray import serve

        from galleria.serving.app import NAME, start

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets it to INFO
        start(arguments, host, port)
        try:
            yield f"http://{host}:{port}"
        finally:
            serve.delete(NAME)
