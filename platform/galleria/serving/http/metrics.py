"""What the gateway counts, for Prometheus. Every gateway counts for itself: sum over them."""

import functools
import time
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galleria.serving.config import SEARCH
from galleria.serving.http.admission import AdaptiveConcurrencyLimit
from galleria.serving.retrieval.searcher import Searcher
from galleria.serving.schemas.problems import problem_responses
from galleria.serving.services.traffic import LiveTraffic

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self._models: Mapping[str, LiveTraffic] = {}
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "galleria_requests", "requests answered", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "galleria_request_seconds",
            "from the first byte of a request to the last of its answer",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "galleria_stage_seconds", "where the time goes", ("stage",), buckets=BUCKETS, registry=self.registry
        )
        self._stage: dict[str, Histogram] = {}
        self._answered = functools.cache(
            lambda route, method, status: (
                self._requests.labels(route, method, str(status)),
                self._seconds.labels(route),
            )
        )
        self._inside = Gauge("galleria_requests_in_flight", "requests being answered", registry=self.registry)
        self._bundles = Gauge(
            "galleria_model_info", "bundles in use", ("name", "family", "hash"), registry=self.registry
        )
        self._batches = Histogram(
            "galleria_batch_rows",
            "rows that went through a network together with one, counted for each",
            ("model",),
            buckets=ROWS,
            registry=self.registry,
        )
        self._queue = Gauge("galleria_queue_depth", "requests under way", ("model",), registry=self.registry)
        self._limit = Gauge("galleria_queue_limit", "the most that are let in now", ("model",), registry=self.registry)

    def watch(self, models: Mapping[str, LiveTraffic]) -> None:
        """Tell of the service's models, and of the catalogue that one of them searches."""
        self._models = models
        if SEARCH in models:
            self._watch(models[SEARCH])

    def pace(self, model: str, pace: AdaptiveConcurrencyLimit) -> None:
        """Tell how many requests to a model are under way."""
        self._queue.labels(model).set_function(lambda: pace.inside)
        self._limit.labels(model).set_function(lambda: pace.limit)

    def batch(self, model: str, rows: int) -> None:
        """Count a row that went through a model's network together with others, itself among them."""
        self._batches.labels(model).observe(rows)

    def stages(self, milliseconds: Mapping[str, float]) -> None:
        """Count the stages of an answer, "read_ms" and so on."""
        for name, value in milliseconds.items():
            if name not in self._stage:
                self._stage[name] = self._stages.labels(name.removesuffix("_ms"))
            self._stage[name].observe(value / 1000)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        self._bundles.clear()
        for name, traffic in self._models.items():
            for served in traffic.split.all:
                self._bundles.labels(name, served.model.model.family, served.model.model.hash).set(1)
        return generate_latest(self.registry)

    def begin(self) -> float:
        """A request has come; what to give to `end`."""
        self._inside.inc()
        return time.perf_counter()

    def end(self, begun: float, route: str, method: str, status: int) -> None:
        """A request has been answered."""
        self._inside.dec()
        counter, histogram = self._answered(route, method, status)
        counter.inc()
        histogram.observe(time.perf_counter() - begun)

    def _watch(self, traffic: LiveTraffic) -> None:
        def searcher() -> Searcher:
            assert traffic.split.main.searcher is not None
            return traffic.split.main.searcher

        for name, about, value in (
            ("version", "version of the product table that searches see", lambda: searcher().catalog.state.version),
            ("items", "items of the catalogue", lambda: searcher().catalog.state.count),
            ("unindexed", "items that the index does not hold yet", lambda: searcher().unindexed),
        ):
            Gauge(f"galleria_catalog_{name}", about, registry=self.registry).set_function(value)


class MetricsMiddleware:
    """ASGI middleware that counts requests by their routes.

    Args:
        app: what it measures.
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
        begun = self.metrics.begin()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # never the path: anyone can make up more of those
            self.metrics.end(begun, route, _method(scope["method"]), status)


def add_metrics_route(app: FastAPI, metrics: Metrics) -> None:
    """Add `/metrics` to `app`."""

    @app.get(
        "/metrics",
        tags=["service"],
        response_class=Response,
        responses={**problem_responses(401), 200: {"content": {"text/plain": {}}}},
    )
    async def show() -> Response:
        """What this gateway counts, for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
