"""What the routes of one gateway share, and how a route gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event
from typing import Annotated

from fastapi import Depends, Header, Path, Request

from galleria.serving.audit import AuditLog, Origin
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.http.admission import AdmissionLimits
from galleria.serving.http.body import BodyReader
from galleria.serving.http.metrics import Metrics
from galleria.serving.retrieval.image_reader import ImageReader
from galleria.serving.retrieval.writer import Writer
from galleria.serving.services.health import HealthService
from galleria.serving.services.models import ModelService
from galleria.serving.services.releases import ReleaseFollower
from galleria.serving.services.traffic import LiveTraffic
from galleria.serving.services.writes import WriteService


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with.

    Attributes:
        config: of the service.
        search: traffic of the model that searches; None for a service without a catalogue.
        writes: of a service that writes to its catalogue.
        models: all models by name.
        releases: of a service that follows aliases.
        admission: limits on the requests in flight.
        bodies: reads the bodies of requests.
        metrics: of this gateway.
        audit: log of changes of aliases; the writer logs its writes.
        health: checks what this gateway needs to answer.
        draining: set once the service is about to end.
    """

    config: ServiceConfig
    search: LiveTraffic | None
    writes: WriteService | None
    models: ModelService
    releases: ReleaseFollower | None
    admission: AdmissionLimits
    bodies: BodyReader
    metrics: Metrics
    audit: AuditLog
    health: HealthService
    draining: Event


def make_services(
    config: ServiceConfig,
    traffic: Mapping[str, LiveTraffic],
    releases: ReleaseFollower | None = None,
    metrics: Metrics | None = None,
    writer: Writer | None = None,
    images: ImageReader | None = None,
) -> Services:
    """Assemble the services of one gateway.

    Args:
        config: of the service.
        traffic: of each model name; "search" is the one that searches.
        releases: of a service that follows aliases.
        metrics: of this gateway; new ones by default.
        writer: of the catalogue, where the service writes.
        images: of this process; its own by default.
    """
    metrics = metrics or Metrics()
    metrics.observe_models(traffic)
    admission = AdmissionLimits(config, metrics.observe_limit)
    admission.model(SEARCH)
    writes = None
    if writer is not None:
        images = images or ImageReader(config.stores, config.limits)
        writes = WriteService(traffic[SEARCH], writer, images, config.limits)
    models, draining, search = ModelService(traffic, config.limits), Event(), traffic.get(SEARCH)
    return Services(
        config=config,
        search=search,
        writes=writes,
        models=models,
        releases=releases,
        admission=admission,
        bodies=BodyReader(config),
        metrics=metrics,
        audit=AuditLog(config.audit),
        health=HealthService(models, search, writer, releases, draining),
        draining=draining,
    )


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ModelId = Annotated[str, Path(alias="model", description="a model's name, of `GET /v1/models`")]
"""Parameter of a route of one model."""

ServicesDep = Annotated[Services, Depends(_services)]
"""Parameter of a route that works with the services."""


async def _session(
    request: Request,
    session: Annotated[
        str,
        Header(
            alias="x-session-id",
            max_length=200,
            description="any text that names the user's session: while a canary is tried out, the same release answers "
            "all requests of a session; by default those of an API key",
        ),
    ] = "",
) -> str:
    key: str = request.scope["state"].get("key", "")
    return session or key


SessionDep = Annotated[str, Depends(_session)]
"""Parameter of a route whose requests a canary may answer: what names the session, or empty."""


def origin_of(request: Request) -> Origin:
    """Return what the audit log says of a request."""
    client = request.client.host if request.client else ""
    return Origin(request.state.request_id, request.state.key, client, request.method)
