"""Routes of KServe's inference protocol, version 2, with the binary extension that Triton's HTTP client uses.

A model takes one input, "image", "text" or "video", as BYTES of shape `[N]` (in JSON pictures and videos in base64).
Outputs are "result", BYTES `[N]`: the prediction as JSON, and, of a model that searches, "embedding", FP32 `[N, D]`.
"""

import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response

from galleria.errors import MediaTooLargeError
from galleria.media.limits import Limits
from galleria.serving.concurrency import map_concurrently
from galleria.serving.http.arrival import HeldBytes
from galleria.serving.http.body import OVERHEAD_BYTES, base64_bytes, validate
from galleria.serving.http.json_scan import JsonLimits, JsonScanner
from galleria.serving.http.services import ModelId, Services, ServicesDep, SessionDep
from galleria.serving.inference.client import ModelClient
from galleria.serving.inference.types import Description
from galleria.serving.schemas.encoded import EncodedFile, decode_base64
from galleria.serving.schemas.kserve import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)
from galleria.serving.schemas.openapi import BINARY, example_response, schema_of
from galleria.serving.schemas.problems import ProblemError, invalid_field, problem_responses

HEADER = "Inference-Header-Content-Length"
"""Length of the JSON at the start of a body; binary tensors follow."""

LENGTH = struct.Struct("<I")
"""Precedes every element of a binary BYTES tensor."""

ERRORS = (400, 401, 404, 408, 413, 415, 422, 429, 503)

router = APIRouter(tags=["kserve"])


Version = Annotated[str, Path(description="a version of the model: the hash of a bundle")]
JsonBytes = Annotated[
    str | None, Header(alias=HEADER, description="length of the JSON, where binary tensors follow it in the body")
]


def _infer_body() -> dict[str, Any]:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["red shoes"]}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": schema_of(InferRequest), "example": {"inputs": [tensor]}},
            "application/octet-stream": {"schema": BINARY},
        },
    }


def _infer_responses(operation: str) -> dict[int | str, dict[str, Any]]:
    responses = example_response(operation)
    responses[200]["content"]["application/octet-stream"] = {"schema": BINARY}
    return responses | problem_responses(*ERRORS)


@router.get("/v2", responses=example_response("GET /v2"))
async def server_metadata() -> dict[str, Any]:
    """Return the server's name and version."""
    return {"name": "galleria", "version": "2", "extensions": ["binary_tensor_data"]}


@router.get("/v2/health/live", responses=example_response("GET /v2/health/live"))
async def server_live() -> dict[str, bool]:
    """Check that this process responds."""
    return {"live": True}


@router.get("/v2/health/ready", responses=example_response("GET /v2/health/ready") | problem_responses(503))
async def server_ready(services: ServicesDep) -> dict[str, bool]:
    """Check as `GET /readyz`."""
    health = await services.health.check()
    if health.problem is not None:
        raise health.problem
    return {"ready": True}


@router.get("/v2/models/{model}", responses=example_response("GET /v2/models/{model}") | problem_responses(404, 503))
async def model_metadata(name: ModelId, services: ServicesDep) -> ModelMetadata:
    """Return a model's inputs and outputs; its versions are the hashes of its bundles, the main one first."""
    versions = services.models.versions(name)
    return _metadata(name, list(versions), await next(iter(versions.values())).describe())


@router.get(
    "/v2/models/{model}/versions/{version}",
    responses=example_response("GET /v2/models/{model}/versions/{version}") | problem_responses(404, 503),
)
async def version_metadata(name: ModelId, version: Version, services: ServicesDep) -> ModelMetadata:
    """Return the inputs and outputs of one version of a model."""
    return _metadata(name, [version], await services.models.get_version(name, version).describe())


@router.get(
    "/v2/models/{model}/ready", responses=example_response("GET /v2/models/{model}/ready") | problem_responses(404, 503)
)
async def model_ready(name: ModelId, services: ServicesDep) -> dict[str, bool]:
    """Check that a model responds."""
    await services.models.get(name).describe()
    return {"ready": True}


@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    responses=example_response("GET /v2/models/{model}/versions/{version}/ready") | problem_responses(404, 503),
)
async def version_ready(name: ModelId, version: Version, services: ServicesDep) -> dict[str, bool]:
    """Check that one version of a model responds."""
    await services.models.get_version(name, version).describe()
    return {"ready": True}


@router.post(
    "/v2/models/{model}/infer",
    response_model=InferResponse,
    openapi_extra={"requestBody": _infer_body()},
    responses=_infer_responses("POST /v2/models/{model}/infer"),
)
async def infer(
    name: ModelId, request: Request, services: ServicesDep, session: SessionDep, json_bytes: JsonBytes = None
) -> Response:
    """Run a model on every element of a tensor."""
    return await _infer(name, services.models.get(name, session), request, services, json_bytes)


@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_model=InferResponse,
    openapi_extra={"requestBody": _infer_body()},
    responses=_infer_responses("POST /v2/models/{model}/versions/{version}/infer"),
)
async def version_infer(
    name: ModelId, version: Version, request: Request, services: ServicesDep, json_bytes: JsonBytes = None
) -> Response:
    """Run one version of a model on every element of a tensor."""
    return await _infer(name, services.models.get_version(name, version), request, services, json_bytes)


async def _infer(
    name: str, client: ModelClient, request: Request, services: Services, json_bytes: str | None
) -> Response:
    description = await client.describe()
    videos = "video" in description.inputs
    admission = services.admission.videos if videos else services.admission.queries
    admission.check()
    with services.bodies.hold(request) as held:
        query, rows = await _read(request, services, held, description, json_bytes)
        with admission.admit():
            predictions = await _predict(client, rows, videos)
        return await services.bodies.in_thread(_response, name, client, query, description, predictions)


def _metadata(name: str, versions: list[str], description: Description) -> ModelMetadata:
    return ModelMetadata(
        name=name,
        versions=versions,
        platform=f"galleria_{description.family}",
        inputs=[TensorMetadata(name=name, datatype="BYTES", shape=[-1]) for name in description.inputs],
        outputs=_outputs(description),
    )


async def _predict(client: ModelClient, rows: Sequence[Mapping[str, Any]], videos: bool) -> list[Mapping[str, Any]]:
    if videos:  # each takes long, and much memory once it is decoded
        return await map_concurrently(client.predict, rows, limit=1)
    return await map_concurrently(client.predict, rows)


async def _read(
    request: Request, services: Services, held: HeldBytes, description: Description, declared: str | None
) -> tuple[InferRequest, list[dict[str, Any]]]:
    """Return a request without its tensor's data, and a row for each element of the tensor."""
    limits, videos = services.config.limits, "video" in description.inputs
    max_bytes = limits.batch_bytes if "image" in description.inputs else limits.text_bytes(limits.batch_items)
    body, scanner = await services.bodies.receive(
        request,
        held,
        base64_bytes(limits.video_bytes if videos else max_bytes) + OVERHEAD_BYTES,
        JsonLimits(limits.json_values, limits.json_values),
        int(declared) if declared is not None and declared.isdecimal() else None,
        services.config.video_timeout_s if videos else services.config.body_timeout_s,
    )
    if len(body) > OVERHEAD_BYTES:  # takes milliseconds: not in the event loop
        return await services.bodies.in_thread(_parse, declared, body, scanner, description, limits)
    return _parse(declared, body, scanner, description, limits)


def _parse(
    declared: str | None, body: bytearray, scanner: JsonScanner, description: Description, limits: Limits
) -> tuple[InferRequest, list[dict[str, Any]]]:
    end = len(body)
    if declared is not None:
        if not declared.isdecimal() or int(declared) > end:
            raise ProblemError(400, "malformed-request", f"{HEADER} is {declared[:20]!r}, the body has {end} bytes")
        end = int(declared)
    query = validate(InferRequest, body, scanner, end)
    tensor = query.inputs[0]
    if tensor.name not in description.inputs:
        raise invalid_field("inputs", f"this model reads {' or '.join(description.inputs)}")
    rows = _rows(tensor, memoryview(body)[end:], limits.batch_items)
    for row in rows:
        _check_size(tensor.name, row[tensor.name], limits)
    tensor.data = None
    return query, rows


def _check_size(name: str, element: str | bytes, limits: Limits) -> None:
    max_size = {"text": limits.text_characters, "video": limits.video_bytes}.get(name, limits.image_bytes)
    if len(element) > max_size:
        size, unit = len(element), "characters" if name == "text" else "bytes"
        detail = f"an element has {size:,} {unit}, over the limit of {max_size:,}"
        raise invalid_field("inputs", detail) if name == "text" else MediaTooLargeError(detail)


def _rows(tensor: Tensor, binary: memoryview, max_rows: int) -> list[dict[str, Any]]:
    if tensor.datatype != "BYTES":
        raise invalid_field("inputs", f"{tensor.name!r} is {tensor.datatype}: send BYTES")
    elements = _elements(tensor, binary)
    if len(elements) > max_rows:
        raise invalid_field("inputs", f"has {len(elements)} elements, over the limit of {max_rows}")
    if not elements or int(np.prod(tensor.shape)) != len(elements):
        raise invalid_field("inputs", f"has the shape {tensor.shape} and {len(elements)} elements")
    if tensor.name != "text":
        return [{tensor.name: element} for element in elements]
    try:
        return [{"text": element.decode()} for element in elements]
    except UnicodeDecodeError as error:
        raise invalid_field("inputs", "'text' is not UTF-8") from error


def _elements(tensor: Tensor, binary: memoryview) -> list[bytes]:
    if tensor.data is None:
        size = tensor.parameters.get("binary_data_size")
        if size != len(binary):
            raise invalid_field("inputs", f"binary_data_size is {size!r}, {len(binary)} bytes follow the JSON")
        return list(_split(binary))
    if not all(isinstance(part, str | EncodedFile) for part in tensor.data):
        raise invalid_field("inputs", "data of BYTES in JSON are texts")
    try:
        if tensor.name == "text":
            return [(part.text() if isinstance(part, EncodedFile) else part).encode() for part in tensor.data]
        return [decode_base64(part) for part in tensor.data]
    except (binascii.Error, ValueError) as error:
        raise invalid_field("inputs", "is not base64: encode the bytes of a file") from error


def _split(binary: memoryview) -> Iterator[bytes]:
    offset = 0
    while offset < len(binary):
        end = offset + LENGTH.size
        length = LENGTH.unpack_from(binary, offset)[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise invalid_field("inputs", "ends inside an element: 4 bytes of its length precede each")
        yield bytes(binary[end : end + length])
        offset = end + length


def _outputs(description: Description) -> list[TensorMetadata]:
    result = TensorMetadata(name="result", datatype="BYTES", shape=[-1])
    if description.dimension is None:
        return [result]
    return [TensorMetadata(name="embedding", datatype="FP32", shape=[-1, description.dimension]), result]


def _response(
    name: str,
    model: ModelClient,
    query: InferRequest,
    description: Description,
    predictions: Sequence[Mapping[str, Any]],
) -> Response:
    known = [output.name for output in _outputs(description)]
    requested = query.outputs or [RequestedOutput(name=output) for output in known]
    default = bool(query.parameters.get("binary_data_output"))
    outputs: list[bytes] = []
    binary: list[bytes] = []
    for output in requested:
        if output.name not in known:
            raise invalid_field("outputs", f"there is no {output.name[:100]!r}: this model has {' and '.join(known)}")
        described, content = _tensor(output.name, predictions, bool(output.parameters.get("binary_data", default)))
        outputs.append(described)
        binary.append(content)
    head = json.dumps({"model_name": name, "model_version": model.model.hash, "id": query.id, "outputs": []}).encode()
    head = b"".join((head[:-2], b", ".join(outputs), head[-2:]))
    if not any(binary):
        return Response(head, media_type="application/json")
    headers = {HEADER: str(len(head))}
    return Response(head + b"".join(binary), headers=headers, media_type="application/octet-stream")


def _tensor(name: str, predictions: Sequence[Mapping[str, Any]], binary: bool) -> tuple[bytes, bytes]:
    """Return the JSON of a tensor, built row by row, and what follows all JSON in a binary response."""
    rows: Iterator[str]
    if name == "embedding":
        vectors = np.stack([np.asarray(row["embedding"], "<f4") for row in predictions])
        described: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(vectors.shape)}
        content, rows = vectors.tobytes(), (json.dumps(vector.tolist())[1:-1] for vector in vectors)
    else:
        texts = [json.dumps({key: value for key, value in row.items() if key != "embedding"}) for row in predictions]
        described = {"name": name, "datatype": "BYTES", "shape": [len(texts)]}
        content, rows = b"".join(LENGTH.pack(len(text)) + text.encode() for text in texts), map(json.dumps, texts)
    if binary:
        return json.dumps(described | {"parameters": {"binary_data_size": len(content)}}).encode(), content
    head = json.dumps(described | {"data": []}).encode()
    return b"".join((head[:-2], ", ".join(rows).encode(), head[-2:])), b""
