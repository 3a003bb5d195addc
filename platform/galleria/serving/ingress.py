"""How requests reach the gateway: Ray Serve reads it from the environment, before Ray starts, on every node.

By default Serve's proxy takes every request and forwards it to another process, in Python: that costs more than a
search in the index. docs/benchmarks.md has the measurements.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, MutableMapping

from galleria.errors import ConfigurationError


@contextlib.contextmanager
def direct_ingress(
    port: int, one_gateway: bool, starting: bool, environment: MutableMapping[str, str] = os.environ
) -> Iterator[int]:
    """Configure the ingress of a Ray that starts within the block, and yield the port for Serve's own proxy.

    A single gateway listens on `port` itself, and the proxy on another. Several gateways are behind the proxy.
    Variables that the environment already has are kept, and a Ray that was started before is left unchanged.

    Args:
        port: of the service.
        one_gateway: whether there is one replica of the gateway.
        starting: whether Ray starts within the block.
        environment: variables that Ray will read.
    """
    added = {}
    direct = False
    if starting and not any(name in environment for name in INGRESS_VARIABLES):
        direct = one_gateway
        added = {
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),  # else 4 MB: no large picture, no video
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": str(int(direct)),
            "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # one that hangs does not end when it is asked to
            MIDDLEWARE_VARIABLE: MIDDLEWARE_FUNCTION,
        }
    if direct:
        added |= {
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_SERVE_PORT_QUARANTINE_S": "0",  # the next replica takes the port of one that died
        }
    added = {name: value for name, value in added.items() if name not in environment}
    environment.update(added)
    try:
        yield _free_port() if direct else port
    finally:
        for name in added:
            environment.pop(name, None)


MIDDLEWARE_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARE_FUNCTION = "galleria.serving.http_server.proxy_middlewares"
"""Function that returns the middleware of Serve's HTTP servers, and the variable by which they find it."""

INGRESS_VARIABLES = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_ADDRESS")
"""Variables that configure the ingress, or name a cluster that has its own: where one is set, nothing is changed."""


def check_port_is_free(host: str, port: int) -> None:
    """Check that the service can listen on a port: a replica that cannot would be restarted for ever.

    Raises:
        ConfigurationError: another program listens on it, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that has just been closed is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port} ({error.strerror or error}): stop what listens there, or choose "
                "another --port"
            ) from error


def route_in_own_loop() -> None:
    """Have this process, which has no event loop, send requests to Serve through one. Replicas do not need it.

    Call it after Ray's start, so that replicas do not inherit it, and before Serve's import.
    """
    os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
