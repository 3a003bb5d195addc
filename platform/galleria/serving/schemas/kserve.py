"""Bodies of KServe's inference protocol."""

from typing import Any

from pydantic import BaseModel, Field


class Tensor(BaseModel):
    """A tensor of a request. Its data is in `data`, or `binary_data_size` bytes that follow the JSON."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class RequestedOutput(BaseModel):
    """An output to return."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str = ""
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] = {}


class TensorMetadata(BaseModel):
    """A tensor that a model takes or returns; a length of -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's versions, inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """A tensor of a response. Its data is in `data`, row by row, or `binary_data_size` bytes that follow the JSON."""

    data: list[float | str] | None = None
    parameters: dict[str, int] | None = None


class InferResponse(BaseModel):
    """The JSON of a response."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputTensor]
