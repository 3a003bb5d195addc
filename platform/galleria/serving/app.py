"""The service as one Ray Serve application: `build` for Ray Serve config files, `start` for Python."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from galleria.errors import ConfigurationError
from galleria.files import absolute
from galleria.index.manifest import current_manifest
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.gateway import Gateway
from galleria.serving.http.auth import is_loopback
from galleria.serving.http.keys import VARIABLES, read_keys
from galleria.serving.inference.server import ModelServer
from galleria.serving.resolve import resolve_all
from galleria.serving.retrieval.shards import ShardServer
from galleria.serving.retrieval.writer import WriterServer
from galleria.serving.tracing import tracing_config

NAME = "galleria"

HEALTH_CHECK_PERIOD_S = 2
"""Serve notices a dead replica by its health checks only: the next one starts up to a period later."""

HEALTH_CHECK_TIMEOUT_S = 30
"""A replica that answers three checks in a row later than that is replaced. Its check waits for a free thread."""

GATEWAY_CHECK_TIMEOUT_S = 10
"""The same for a gateway, whose check waits for nothing: what takes that long is an event loop that hangs."""

MAX_GATEWAYS = 16
"""Number of gateways whose writes the writer takes at a time; it cannot know how many Serve starts."""

Deployments = Mapping[str, Mapping[str, Any]]
"""Deployment → its options that differ from the defaults, such as `num_replicas`, as `serve.deployment` names them."""

DEFAULT_DEPLOYMENTS: Deployments = MappingProxyType({})


def build(config: ServiceConfig) -> Application:
    """Build the application. Paths are relative to the working directory; on a cluster every node must see them.

    Raises:
        ConfigurationError: it has no keys, and HAProxy hides its clients' addresses, or every origin is allowed.
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
    """
    check_open(config, os.environ)
    return _build(config, DEFAULT_DEPLOYMENTS)


def check_open(config: ServiceConfig, environment: Mapping[str, str]) -> None:
    """Reject a configuration that would be open to other machines.

    Raises:
        ConfigurationError: it has no keys, and HAProxy hides its clients' addresses.
    """
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" and not read_keys(config.keys, environment):
        raise ConfigurationError(
            "behind HAProxy every request comes from this machine, so a service without keys would be open to all: "
            "give it `keys`, or start it with 'galleria serve', which listens on loopback"
        )


def _build(config: ServiceConfig, deployments: Deployments) -> Application:
    # Replicas have other working directories.
    options = ("bundle", "table", "index", "releases", "keys", "audit")
    paths = {name: absolute(getattr(config, name)) for name in options}
    models = {name: absolute(path) for name, path in config.models.items()}
    config = config.model_copy(update={**paths, "models": models})
    references = resolve_all(config)
    catalog = references[SEARCH].main.catalog if SEARCH in references else None
    if catalog is None and (config.writable or config.shards == "deployed"):
        raise ConfigurationError(f"no alias {SEARCH!r} in {config.releases}: there is no catalogue to write or search")
    keys = read_keys(config.keys, os.environ)
    if "*" in config.cors_origins and not keys:
        raise ConfigurationError(
            "cors_origins has '*' and the service no keys, so any page that is open in a browser of this machine could "
            "use it: name the origins, or give it `keys`"
        )
    deployed = _deployments(config, list(references), catalog)
    if unknown := sorted(deployments.keys() - deployed.keys()):
        raise ConfigurationError(f"deployments: {unknown[0]!r} is not one of {', '.join(sorted(deployed))}")
    deployed = {name: each.options(**deployments.get(name, {})) for name, each in deployed.items()}
    handles, writer = {}, None
    shards: list[Application] = []
    if config.inference == "deployed":
        handles = {name: deployed[f"Model-{name}"].bind(config, name, split) for name, split in references.items()}
    if "Writer" in deployed:
        writer = deployed["Writer"].bind(config, references[SEARCH])
    while (name := f"Shard-{len(shards)}") in deployed:
        shards.append(deployed[name].bind(config, len(shards), references[SEARCH]))
    return deployed["Gateway"].bind(config, references, handles, writer, keys, shards)


def _deployments(
    config: ServiceConfig, models: Sequence[str], catalog: CatalogLocation | None
) -> dict[str, serve.Deployment]:
    """Return all deployments by their names, with the defaults of their options."""
    deployments = [
        # Above what it admits, with the requests that wait for their body or their version: it is the gateway that
        # answers 503, as a problem, and /livez is always answered.
        _deployment(
            serve.ingress()(Gateway),
            "Gateway",
            8 * (config.max_concurrent_queries + config.max_concurrent_videos),
            check_timeout_s=GATEWAY_CHECK_TIMEOUT_S,
        )
    ]
    if config.inference == "deployed":
        # Batches in work, and as many again in the queue, so that the next batch is full.
        ongoing = max(4 * config.max_batch_size, 2 * config.max_concurrent_queries)
        deployments += [
            _deployment(ModelServer, f"Model-{name}", ongoing, num_cpus=int(name == SEARCH)) for name in models
        ]
    if catalog is not None and config.shards == "deployed":
        count = len(current_manifest(Path(catalog.index)).shards)
        ongoing = 2 * config.max_concurrent_queries
        deployments += [_deployment(ShardServer, f"Shard-{number}", ongoing) for number in range(count)]
    if config.writable:
        # One replica: one commit holds what many clients send at a time.
        ongoing = 4 * config.max_concurrent_writes * MAX_GATEWAYS
        deployments.append(_deployment(WriterServer, "Writer", ongoing, num_cpus=1))  # it builds the index, too
    return {deployment.name: deployment for deployment in deployments}


def _deployment(
    server: type,
    name: str,
    max_ongoing_requests: int,
    num_cpus: float = 0,
    check_timeout_s: float = HEALTH_CHECK_TIMEOUT_S,
) -> serve.Deployment:
    return serve.deployment(
        name=name,
        num_replicas=1,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=max_ongoing_requests,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=check_timeout_s,
    )(server)


def start(
    config: ServiceConfig, host: str = "127.0.0.1", port: int = 8000, deployments: Deployments = DEFAULT_DEPLOYMENTS
) -> DeploymentHandle[Any]:
    """Serve over HTTP on the Ray that this process is connected to; returns once every replica is ready.

    The service lives as long as Ray does, or until `ray.serve.shutdown()`.

    Args:
        config: the service's options.
        host: address to listen on.
        port: port to listen on.
        deployments: options of deployments, as in `deployments:` of a Ray Serve config file.

    Raises:
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
        ConfigurationError: a replica did not start, and why; or other machines would reach it without a key.
    """
    if not is_loopback(host) and not read_keys(config.keys, os.environ):
        raise ConfigurationError(
            f"host {host} is reached from other machines, and the service has no keys: make some with 'galleria keys "
            f"FILE --name NAME --role write' and give it --keys FILE, or set {' and '.join(VARIABLES.values())}"
        )
    application = _build(config, deployments)
    serve.start(http_options={"host": host, "port": port}, tracing_config=tracing_config())
    try:
        return serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ConfigurationError(f"the service did not start: {_causes() or error}") from error


def outage() -> str | None:
    """Return why no gateway runs, or None where one does."""
    try:
        application = serve.status().applications.get(NAME)
    except Exception as error:  # whatever Ray raises while it, or Serve's controller, is dead
        return f"Ray Serve does not respond: {error!r}"
    gateway = application.deployments.get("Gateway") if application else None
    if gateway is not None and any(count for state, count in gateway.replica_states.items() if state == "RUNNING"):
        return None
    return _causes() or (gateway.message if gateway else "") or "there is no gateway"


def _causes() -> str:
    """Return the replicas' own errors, which Serve keeps in its status only."""
    application = serve.status().applications.get(NAME)
    deployments = application.deployments if application else {}
    failed = [(name, status.message) for name, status in deployments.items() if "Traceback" in status.message]
    return "; ".join(f"{name}: {last_error(message)}" for name, message in failed)


def last_error(trace: str) -> str:
    """Return the error that a printed traceback ends with, on one line."""
    starts = [match.start() for match in re.finditer(r"^[\w.]+: ", trace, flags=re.MULTILINE)]
    return " ".join(trace[starts[-1] if starts else 0 :].split())
