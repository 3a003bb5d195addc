"""KServe's inference protocol, version 2, with the binary extension that Triton's HTTP client speaks.

A model takes one input, "image", "text" or "video", as BYTES of shape `[N]` (in JSON pictures and videos in base64).
One that searches gives "embedding", FP32 `[N, D]`; all give "result", BYTES `[N]`: what the model says, as JSON.
"""

import asyncio
import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from galleria.serving.config import ServiceConfig
from galleria.serving.http.admission import Admission
from galleria.serving.http.body import capped
from galleria.serving.inference.client import ModelClient
from galleria.serving.inference.types import Description
from galleria.serving.schemas.problems import ProblemError, invalid_field, problem_responses
from galleria.serving.services.models import ModelService

HEADER = "Inference-Header-Content-Length"
"""Length of the JSON at the beginning of a body that goes on with binary tensors."""

LENGTH = struct.Struct("<I")
"""Goes before every element of a binary BYTES tensor."""

REFUSALS = (400, 401, 404, 408, 413, 415, 422, 429, 503)


class Tensor(BaseModel):
    """A tensor of a request. Its data is here, or `binary_data_size` bytes of it come behind the JSON."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class RequestedOutput(BaseModel):
    """An output to answer with."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str = ""
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] = {}


def add_kserve_routes(app: FastAPI, service: ModelService, config: ServiceConfig, admission: Admission) -> None:
    """Add `/v2` to `app`."""

    @app.get("/v2", tags=["kserve"])
    async def server() -> dict[str, Any]:
        """What this server is."""
        return {"name": "galleria", "version": "2", "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live", tags=["kserve"])
    async def live() -> dict[str, bool]:
        """This process answers."""
        return {"live": True}

    @app.get("/v2/health/ready", tags=["kserve"], responses=problem_responses(503))
    async def ready() -> dict[str, bool]:
        """Every model answers."""
        await service.describe()
        return {"ready": True}

    @app.get("/v2/models/{model}", tags=["kserve"], responses=problem_responses(404, 503))
    async def metadata(model: str) -> dict[str, Any]:
        """A model's inputs and outputs; its version is the hash of its bundle."""
        found = await service.get(model).describe()
        return {
            "name": model,
            "versions": [found.hash],
            "platform": f"galleria_{found.family}",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in found.inputs],
            "outputs": _outputs(found),
        }

    @app.get("/v2/models/{model}/ready", tags=["kserve"], responses=problem_responses(404, 503))
    async def model_ready(model: str) -> dict[str, bool]:
        """A model answers."""
        await service.get(model).describe()
        return {"ready": True}

    @app.post("/v2/models/{model}/infer", tags=["kserve"], responses=problem_responses(*REFUSALS))
    async def infer(model: str, request: Request) -> Response:
        """Ask a model for every element of a tensor."""
        with admission.enter():
            asked = service.get(model)
            body = await _read(request, config)
            query, binary = _parse(request, body)
            rows = _rows(query.inputs[0], binary, config.limits.batch_items)
            description = await asked.describe()
            if query.inputs[0].name not in description.inputs:
                raise invalid_field("inputs", f"this model reads {' or '.join(description.inputs)}")
            answers = await asyncio.gather(*(asked.predict(row) for row in rows))
            return _answer(model, asked, query, description, answers)


async def _read(request: Request, config: ServiceConfig) -> bytes:
    most = max(config.limits.batch_bytes, config.limits.video_bytes) // 3 * 4
    try:
        async with asyncio.timeout(config.video_timeout_s):
            return b"".join([chunk async for chunk in capped(request, most)])
    except TimeoutError as error:
        raise ProblemError(408, "slow-request", f"the body took longer than {config.video_timeout_s:g} s") from error


def _parse(request: Request, body: bytes) -> tuple[InferRequest, bytes]:
    told = request.headers.get(HEADER)
    if told is None:
        return InferRequest.model_validate_json(body), b""
    if not told.isdecimal() or int(told) > len(body):
        raise ProblemError(400, "malformed-request", f"{HEADER} is {told[:20]!r}, the body has {len(body)} bytes")
    return InferRequest.model_validate_json(body[: int(told)]), body[int(told) :]


def _rows(tensor: Tensor, binary: bytes, most: int) -> list[dict[str, Any]]:
    if tensor.datatype != "BYTES":
        raise invalid_field("inputs", f"{tensor.name!r} is {tensor.datatype}: send BYTES")
    elements = _elements(tensor, binary)
    if len(elements) > most:
        raise invalid_field("inputs", f"has {len(elements)} elements, over the limit of {most}")
    if not elements or int(np.prod(tensor.shape)) != len(elements):
        raise invalid_field("inputs", f"has the shape {tensor.shape} and {len(elements)} elements")
    if tensor.name != "text":
        return [{tensor.name: element} for element in elements]
    try:
        return [{"text": element.decode()} for element in elements]
    except UnicodeDecodeError as error:
        raise invalid_field("inputs", "'text' is not UTF-8") from error


def _elements(tensor: Tensor, binary: bytes) -> list[bytes]:
    if tensor.data is None:
        size = tensor.parameters.get("binary_data_size")
        if size != len(binary):
            raise invalid_field("inputs", f"binary_data_size is {size!r}, behind the JSON are {len(binary)} bytes")
        return list(_split(binary))
    if not all(isinstance(part, str) for part in tensor.data):
        raise invalid_field("inputs", "data of BYTES in JSON are texts")
    try:
        return [
            part.encode() if tensor.name == "text" else base64.b64decode(part, validate=True) for part in tensor.data
        ]
    except (binascii.Error, ValueError) as error:
        raise invalid_field("inputs", "is not base64: encode the bytes of a file") from error


def _split(binary: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(binary):
        end = place + LENGTH.size
        length = LENGTH.unpack_from(binary, place)[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise invalid_field("inputs", "ends inside an element: 4 bytes of its length go before each")
        yield binary[end : end + length]
        place = end + length


def _outputs(description: Description) -> list[dict[str, Any]]:
    result = {"name": "result", "datatype": "BYTES", "shape": [-1]}
    if description.dimension is None:
        return [result]
    return [{"name": "embedding", "datatype": "FP32", "shape": [-1, description.dimension]}, result]


def _answer(
    name: str,
    model: ModelClient,
    query: InferRequest,
    description: Description,
    answers: Sequence[Mapping[str, Any]],
) -> Response:
    known = [output["name"] for output in _outputs(description)]
    wanted = query.outputs or [RequestedOutput(name=output) for output in known]
    default = bool(query.parameters.get("binary_data_output"))
    outputs, binary = [], []
    for output in wanted:
        if output.name not in known:
            raise invalid_field("outputs", f"there is no {output.name[:100]!r}: this model gives {' and '.join(known)}")
        described, content = _tensor(output.name, answers, bool(output.parameters.get("binary_data", default)))
        outputs.append(described)
        binary.append(content)
    head = json.dumps(
        {"model_name": name, "model_version": model.model.hash, "id": query.id, "outputs": outputs}
    ).encode()
    if not any(binary):
        return Response(head, media_type="application/json")
    headers = {HEADER: str(len(head))}
    return Response(head + b"".join(binary), headers=headers, media_type="application/octet-stream")


def _tensor(name: str, answers: Sequence[Mapping[str, Any]], binary: bool) -> tuple[dict[str, Any], bytes]:
    if name == "embedding":
        vectors = np.stack([np.asarray(answer["embedding"], "<f4") for answer in answers])
        described: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(vectors.shape)}
        content, data = vectors.tobytes(), vectors.ravel().tolist()
    else:
        texts = [json.dumps({key: value for key, value in answer.items() if key != "embedding"}) for answer in answers]
        described = {"name": name, "datatype": "BYTES", "shape": [len(texts)]}
        content, data = b"".join(LENGTH.pack(len(text)) + text.encode() for text in texts), texts
    if binary:
        return described | {"parameters": {"binary_data_size": len(content)}}, content
    return described | {"data": data}, b""
