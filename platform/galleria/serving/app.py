"""The service as one Ray Serve application: `build` for Ray Serve config files, `start` for Python."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from galleria.errors import ConfigurationError
from galleria.files import absolute
from galleria.index.manifest import current_manifest
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.gateway import Gateway
from galleria.serving.http.auth import is_loopback
from galleria.serving.http.keys import VARIABLES, read_keys
from galleria.serving.inference.server import ModelServer
from galleria.serving.resolve import resolve_all
from galleria.serving.retrieval.shards import ShardServer
from galleria.serving.retrieval.writer import WriterServer
from galleria.serving.tracing import tracing_config

NAME = "galleria"

HEALTH: dict[str, Any] = {"health_check_period_s": 2, "health_check_timeout_s": 30}
"""Serve notices a dead replica by its health checks only: the next one starts up to a period later."""


def build(config: ServiceConfig) -> Application:
    """Build the application. Paths are relative to the working directory; on a cluster every node must see them.

    Raises:
        ConfigurationError: it has no keys, and HAProxy hides its clients' addresses.
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
    """
    check_open(config, os.environ)
    return _build(config)


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


def _build(config: ServiceConfig) -> Application:
    # Replicas have other working directories.
    named = ("bundle", "table", "index", "releases", "keys", "audit")
    places = {name: absolute(getattr(config, name)) for name in named}
    models = {name: absolute(path) for name, path in config.models.items()}
    config = config.model_copy(update={**places, "models": models})
    references = resolve_all(config)
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=config.gateway_replicas,
        ray_actor_options={"num_cpus": config.gateway_cpus},
        # Above what it admits: it is the gateway that answers 503, as a problem, and /livez is always answered.
        max_ongoing_requests=4 * (config.max_concurrent_queries + config.max_concurrent_videos),
        **HEALTH,
    )(_ingress(Gateway))
    handles = {}
    if config.inference == "deployed":
        handles = {name: _model(config, name).bind(config, name, split) for name, split in references.items()}
    catalog = references[SEARCH].main.catalog if SEARCH in references else None
    if catalog is None and (config.writable or config.shards == "deployed"):
        raise ConfigurationError(f"no alias {SEARCH!r} in {config.releases}: there is no catalogue to write or search")
    writer = _writer(config).bind(config, references[SEARCH]) if config.writable else None
    shards = []
    if catalog is not None and config.shards == "deployed":
        count = len(current_manifest(Path(catalog.index)).shards)
        shards = [_shard(config, number).bind(config, number, references[SEARCH]) for number in range(count)]
    return gateway.bind(config, references, handles, writer, read_keys(config.keys, os.environ), shards)


def _model(config: ServiceConfig, name: str) -> Any:
    return serve.deployment(
        name=f"Model-{name}",
        num_replicas=config.model_replicas,
        ray_actor_options={"num_cpus": config.search_cpus if name == SEARCH else config.model_cpus},
        # Batches in work, and as many again waiting, so that a full batch is always at hand.
        max_ongoing_requests=max(4 * config.max_batch_size, 2 * config.max_concurrent_queries),
        **HEALTH,
    )(ModelServer)


def _shard(config: ServiceConfig, number: int) -> Any:
    return serve.deployment(
        name=f"Shard-{number}",
        num_replicas=config.shard_replicas,
        ray_actor_options={"num_cpus": config.shard_cpus},
        max_ongoing_requests=2 * config.max_concurrent_queries,
        **HEALTH,
    )(ShardServer)


def _writer(config: ServiceConfig) -> Any:
    return serve.deployment(
        name="Writer",
        num_replicas=1,  # one commit holds what many ask for at a time
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=4 * config.max_concurrent_writes * config.gateway_replicas,
        **HEALTH,
    )(WriterServer)


def start(config: ServiceConfig, host: str = "127.0.0.1", port: int = 8000) -> DeploymentHandle[Any]:
    """Serve over HTTP on the Ray that this process is connected to; returns once every replica is ready.

    The service lives as long as Ray does, or until `ray.serve.shutdown()`.

    Raises:
        GalleriaError: a bundle, the table or the index are missing, damaged, or do not belong together.
        ConfigurationError: a replica did not start, and why; or other machines would reach it without a key.
    """
    if not is_loopback(host) and not read_keys(config.keys, os.environ):
        raise ConfigurationError(
            f"host {host} is reached from other machines, and the service has no keys: make some with 'galleria keys "
            f"FILE --name NAME --role write' and give it --keys FILE, or set {' and '.join(VARIABLES.values())}"
        )
    application = _build(config)
    serve.start(http_options={"host": host, "port": port}, tracing_config=tracing_config())
    try:
        return serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ConfigurationError(f"the service did not start: {_causes() or error}") from error


def _causes() -> str:
    """The replicas' own errors, which Serve keeps in its status only."""
    application = serve.status().applications.get(NAME)
    deployments = application.deployments if application else {}
    failed = [(name, found.message) for name, found in deployments.items() if "Traceback" in found.message]
    return "; ".join(f"{name}: {last_error(message)}" for name, message in failed)


def last_error(trace: str) -> str:
    """The error that a printed traceback ends with, on one line."""
    starts = [found.start() for found in re.finditer(r"^[\w.]+: ", trace, flags=re.MULTILINE)]
    return " ".join(trace[starts[-1] if starts else 0 :].split())


def _ingress(gateway: type[Gateway]) -> Any:
    return serve.ingress()(gateway)
