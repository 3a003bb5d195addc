"""The HTTP deployment: holds the catalogue, and the models or the handles of their deployments."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from galleria.catalog.live import LiveCatalog
from galleria.errors import ConfigurationError, GalleriaError
from galleria.serving.config import CatalogLocation, ServiceConfig
from galleria.serving.garbage import freeze_heap
from galleria.serving.http.application import make_app
from galleria.serving.http.keys import Keys
from galleria.serving.http.metrics import Metrics
from galleria.serving.http.services import make_services
from galleria.serving.http_server import harden_http_server
from galleria.serving.inference.client import DeployedModel, ModelBackend, ModelClient
from galleria.serving.inference.server import ModelServer, import_torch_in_background
from galleria.serving.resolve import ReleaseRef, resolve_alias, resolve_current
from galleria.serving.retrieval.searcher import LocalSearcher, Searcher
from galleria.serving.retrieval.shards import ShardedSearcher
from galleria.serving.retrieval.writer import RemoteWriter
from galleria.serving.rpc import LOST, READY_TIMEOUT_S
from galleria.serving.schemas.problems import unavailable
from galleria.serving.services.items import ItemService
from galleria.serving.services.releases import ReleaseFollower, alias_of
from galleria.serving.services.search import SearchService
from galleria.serving.services.traffic import LiveTraffic, ServedRelease
from galleria.serving.traffic_split import TrafficSplit


def make_served_release(
    config: ServiceConfig,
    model: ModelClient,
    searcher: Searcher | None = None,
    location: CatalogLocation | None = None,
) -> ServedRelease:
    """Return a model with the services that search its catalogue and prepare items for it, where it has one.

    Args:
        config: of the service.
        model: the model.
        searcher: of its catalogue.
        location: of its catalogue, where the service writes.
    """
    if searcher is None:
        return ServedRelease(model)
    search = SearchService(searcher, model, config.limits, config.threads, config.version_timeout_s)
    items = None if location is None else ItemService(location, searcher.catalog, model, config.limits)
    return ServedRelease(model, searcher, search, items)


class Gateway:
    """One replica of the HTTP service."""

    def __init__(
        self,
        config: ServiceConfig,
        references: Mapping[str, TrafficSplit[ReleaseRef]],
        handles: Mapping[str, Any],
        writer: Any = None,
        keys: Keys | None = None,
        shards: Sequence[Any] = (),
    ) -> None:
        """Open the catalogue and the models.

        Args:
            config: of the service.
            references: the releases that model names resolve to at the start of the service.
            handles: of the models' deployments, by name; without any they run in this process.
            writer: handle of the deployment that writes, if there is one.
            keys: of the service.
            shards: handles of the shards' deployments, in order; without any the index is searched in this process.

        Raises:
            GalleriaError: table or index are missing, damaged, or do not belong to the bundle; or a bundle is.
        """
        harden_http_server()
        self._config = config
        local = {} if handles else references
        self._servers = {name: ModelServer(config, name, split) for name, split in local.items()}
        deployed = {name: DeployedModel(handle) for name, handle in handles.items()}
        self._backends: Mapping[str, ModelBackend] = {**self._servers, **deployed}
        self._writable = writer is not None
        self._shards = shards
        self._metrics = Metrics()
        self._follower: ReleaseFollower | None = None
        current = {name: resolve_current(config, name, split) for name, split in references.items()}
        traffic = {name: LiveTraffic(split.map(partial(self._open, name))) for name, split in current.items()}
        if config.releases:
            self._follower = ReleaseFollower(
                Path(config.releases),
                traffic,
                partial(resolve_alias, config),
                self._make_ready,
                {name: alias_of(split) for name, split in current.items()},
            )
            self._follower.follow()
        self._traffic = traffic
        remote = RemoteWriter(writer, config.predict_timeout_s) if writer is not None else None
        self._services = make_services(config, traffic, self._follower, self._metrics, remote)
        self._app = make_app(self._services, proxied=True, keys=keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; called by Serve once the catalogue is open."""
        freeze_heap()
        if self._servers:
            import_torch_in_background()
        return self._app

    async def check_health(self) -> None:
        """Check the models of this process; Serve replaces a replica whose check fails.

        It waits for no thread: Serve takes a gateway whose check takes long for one that hangs.

        Raises:
            TimeoutError: a network in this process is stuck.
        """
        for server in self._servers.values():
            server.check_batches()

    async def drain(self) -> None:
        """Report not ready from now on, and go on serving requests."""
        self._services.draining.set()

    def close(self) -> None:
        """Stop following the aliases and the catalogues."""
        if self._follower is not None:
            self._follower.close()
        for traffic in self._traffic.values():
            for served in traffic.split.all:
                served.close()

    def _make_ready(self, name: str, reference: ReleaseRef) -> ServedRelease:
        """Open a release once every replica that it needs has loaded it.

        Raises:
            GalleriaError: it cannot be used.
            ProblemError: 503, a replica of a deployment died or was too slow.
        """
        try:
            self._backends[name].load(reference.bundle)
            for handle in self._shards if reference.catalog is not None else ():
                handle.broadcast("describe", reference.catalog).results(timeout_s=READY_TIMEOUT_S)
        except (*LOST, DeploymentUnavailableError, TimeoutError) as error:
            raise unavailable(f"a replica was lost while it loaded {reference.model.release}: try again") from error
        except RayTaskError as error:
            if isinstance(error.cause, GalleriaError):
                raise error.cause from error
            raise
        return self._open(name, reference)

    def _open(self, name: str, reference: ReleaseRef) -> ServedRelease:
        config = self._config
        model = ModelClient(
            name,
            reference.model,
            reference.bundle,
            self._backends[name],
            config.predict_timeout_s,
            config.video_timeout_s,
            partial(self._metrics.count_batch, name),
        )
        location = reference.catalog
        if location is None:
            return make_served_release(config, model)
        catalog = LiveCatalog(location.table, location.index, location.bundle_hash, () if self._shards else None)
        if self._shards and catalog.state.shard_count != len(self._shards):
            raise ConfigurationError(
                f"index {location.index} has {catalog.state.shard_count} shards, and the service runs "
                f"{len(self._shards)}: build it with as many, or start the service again"
            )
        catalog.follow()
        searcher: Searcher = (
            ShardedSearcher(catalog, location, self._shards, config.shard_timeout_s)
            if self._shards
            else LocalSearcher(catalog, config.threads)
        )
        return make_served_release(config, model, searcher, location if self._writable else None)
