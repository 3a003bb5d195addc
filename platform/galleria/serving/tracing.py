"""Traces of requests through gateway, models and shards, exported by OpenTelemetry's protocol.

Ray Serve creates the spans. They are sent to the endpoint in OpenTelemetry's own variable
`OTEL_EXPORTER_OTLP_ENDPOINT`, which is to be set where Ray is started, on every node.
"""

import os
from typing import Any

from ray.serve.schema import TracingConfig

from galleria.errors import ConfigurationError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SAMPLING_RATIO = "OTEL_TRACES_SAMPLER_ARG"
"""Ratio of the requests that are traced, 1 by default; this too is OpenTelemetry's own name."""


def tracing_config() -> TracingConfig | None:
    """Return the tracing options for Serve, or None where no collector is set.

    Raises:
        ConfigurationError: the exporter is not installed, or the ratio is not between 0 and 1.
    """
    if not os.environ.get(ENDPOINT):
        return None
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{ENDPOINT} asks for traces: pip install 'galleria[tracing]'") from error
    ratio = os.environ.get(SAMPLING_RATIO, "1")
    try:
        return TracingConfig(
            enabled=True, exporter_import_path=f"{__name__}:span_processors", sampling_ratio=float(ratio)
        )
    except ValueError as error:
        raise ConfigurationError(f"{SAMPLING_RATIO} is {ratio!r}: set it to a number between 0 and 1") from error


def span_processors() -> list[Any]:
    """Return what exports the spans of one of Serve's processes."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
