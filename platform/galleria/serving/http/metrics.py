"""Metrics of a gateway, in Prometheus' format. Every gateway counts its own requests: sum over them."""

import functools
import math
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.config import SEARCH
from galleria.serving.http.admission import AdaptiveConcurrencyLimit
from galleria.serving.retrieval.searcher import Searcher
from galleria.serving.schemas.responses import PredictionResponse, SearchResponse
from galleria.serving.services.health import COMPONENTS, Health
from galleria.serving.services.traffic import LiveTraffic

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Metrics of one gateway."""

    def __init__(self) -> None:
        self._models: Mapping[str, LiveTraffic] = {}
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "galleria_requests", "requests answered", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "galleria_request_seconds",
            "seconds from the first byte of a request to the last of its response",
            ("route",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stages = Histogram(
            "galleria_stage_seconds",
            "seconds of each stage of a response",
            ("stage",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stage: dict[str, Histogram] = {}
        self._responses = Histogram(
            "galleria_response_seconds",
            "seconds of each response of a model, by release (or the bundle's hash)",
            ("model", "release"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._answered = functools.cache(
            lambda route, method, status: (
                self._requests.labels(route, method, str(status)),
                self._seconds.labels(route),
            )
        )
        self._in_flight = Gauge("galleria_requests_in_flight", "requests in flight", registry=self.registry)
        self._bundles = Gauge(
            "galleria_model_info", "bundles in use", ("name", "family", "hash"), registry=self.registry
        )
        self._batches = Histogram(
            "galleria_batch_rows",
            "size of the batch that each row was predicted in",
            ("model",),
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self._queue = Gauge("galleria_queue_depth", "requests in flight, by model", ("model",), registry=self.registry)
        self._limit = Gauge(
            "galleria_queue_limit",
            "requests in flight that are admitted now, by model",
            ("model",),
            registry=self.registry,
        )

        self._ready = Gauge(
            "galleria_ready", "1 if this gateway can answer, as GET /readyz says", registry=self.registry
        )
        self._degraded = Gauge(
            "galleria_degraded",
            "1 for a component that works less well than it should; GET /readyz says why",
            ("component",),
            registry=self.registry,
        )
        self._shards = Gauge(
            "galleria_shards_responding", "shards of the main release's index that respond", registry=self.registry
        )
        self._pending = Gauge(
            "galleria_writer_pending_seconds", "age of the oldest write that is not done", registry=self.registry
        )
        self._maintenance_failures = Gauge(
            "galleria_maintenance_failures",
            "failures in a row of the maintenance of a table and its index",
            registry=self.registry,
        )
        self._maintenance_seconds = Gauge(
            "galleria_maintenance_seconds",
            "seconds for which maintenance has been running; 0 between two runs",
            registry=self.registry,
        )

    def observe_models(self, models: Mapping[str, LiveTraffic]) -> None:
        """Report the service's models, and the catalogue that one of them searches."""
        self._models = models
        if SEARCH in models:
            self._observe_catalog(models[SEARCH])

    def observe_limit(self, model: str, limit: AdaptiveConcurrencyLimit) -> None:
        """Report a model's requests in flight, and how many are admitted."""
        self._queue.labels(model).set_function(lambda: limit.in_flight)
        self._limit.labels(model).set_function(lambda: limit.limit)

    def count_batch(self, model: str, rows: int) -> None:
        """Count a row that was predicted in a batch of so many rows."""
        self._batches.labels(model).observe(rows)

    def count_response(self, model: str, response: SearchResponse | PredictionResponse) -> None:
        """Count a model's response, by its release, and the stages of it."""
        release = response.model.release or response.model.hash[:12]
        self._responses.labels(model, release).observe(response.latency_ms / 1000)
        for name, value in response.stages:
            if name not in self._stage:
                self._stage[name] = self._stages.labels(name.removesuffix("_ms"))
            self._stage[name].observe(value / 1000)

    def observe_health(self, health: Health) -> None:
        """Report the result of a check."""
        self._ready.set(health.problem is None)
        degraded = {part.component for part in health.degraded}
        for component in COMPONENTS:
            self._degraded.labels(component).set(component in degraded)
        self._shards.set(health.shards)
        for gauge, values in (
            (self._pending, [status.pending_s for status in health.writers]),
            (self._maintenance_failures, [status.maintenance_failures for status in health.writers]),
            (self._maintenance_seconds, [status.maintenance_s for status in health.writers]),
        ):
            gauge.set(max(values, default=math.nan))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._bundles.clear()
        for name, traffic in self._models.items():
            for served in traffic.split.all:
                self._bundles.labels(name, served.model.model.family, served.model.model.hash).set(1)
        return generate_latest(self.registry)

    def start_request(self) -> float:
        """Count a request in; return its start for `end_request`."""
        self._in_flight.inc()
        return time.perf_counter()

    def end_request(self, started: float, route: str, method: str, status: int) -> None:
        """Count a request that was answered."""
        self._in_flight.dec()
        counter, histogram = self._answered(route, method, status)
        counter.inc()
        histogram.observe(time.perf_counter() - started)

    def _observe_catalog(self, traffic: LiveTraffic) -> None:
        def searcher() -> Searcher:
            assert traffic.split.main.searcher is not None
            return traffic.split.main.searcher

        for name, description, value in (
            ("version", "version of the product table that is searched", lambda: searcher().catalog.state.version),
            ("items", "items in the catalogue", lambda: searcher().catalog.state.count),
            (
                "unindexed",
                "items that are not in the index yet",
                lambda: searcher().unindexed,
            ),
            (
                "lag_seconds",
                "seconds since the searched version was last known to be the newest",
                lambda: searcher().catalog.status.lag_s,
            ),
            (
                "lag_versions",
                "versions of the product table that are newer than the searched one, as far as they have been seen",
                lambda: searcher().catalog.status.lag_versions,
            ),
        ):
            Gauge(f"galleria_catalog_{name}", description, registry=self.registry).set_function(value)


class MetricsMiddleware:
    """ASGI middleware that counts requests by their routes.

    Args:
        app: the application.
        metrics: where it counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = self.metrics.start_request()
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            route = getattr(
                scope.get("route"), "path", "other"
            )  # never the path: clients could create any number of labels
            self.metrics.end_request(started, route, _method(scope["method"]), status)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
