"""Traces of requests through gateway, models and shards, for whoever collects them by OpenTelemetry's protocol.

Ray Serve makes the spans. They are sent where OpenTelemetry's own variable `OTEL_EXPORTER_OTLP_ENDPOINT` says, which is
to be set where Ray is started, on every node.
"""

import os
from typing import Any

from ray.serve.schema import TracingConfig

from galleria.errors import ConfigurationError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SHARE = "OTEL_TRACES_SAMPLER_ARG"
"""Share of the requests that are traced, all by default; OpenTelemetry's own name too."""


def tracing_config() -> TracingConfig | None:
    """How Serve is to trace; None where nobody collects.

    Raises:
        ConfigurationError: the exporter is not installed, or the share is no share.
    """
    if not os.environ.get(ENDPOINT):
        return None
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{ENDPOINT} asks for traces: pip install 'galleria[tracing]'") from error
    share = os.environ.get(SHARE, "1")
    try:
        return TracingConfig(
            enabled=True, exporter_import_path=f"{__name__}:span_processors", sampling_ratio=float(share)
        )
    except ValueError as error:
        raise ConfigurationError(f"{SHARE} is {share!r}: set it to a number between 0 and 1") from error


def span_processors() -> list[Any]:
    """What Serve hands the spans of one of its processes to."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
