"""Schemas and examples for the OpenAPI document."""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from galleria.media.limits import LIMITS

BINARY: Mapping[str, Any] = {"type": "string", "format": "binary"}
"""Schema of a file's bytes."""

COMPONENTS = "#/components/schemas/"

SECURITY: Mapping[str, Any] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "a key of 'galleria keys'; a service without keys answers on loopback only, and needs none",
    },
    "cookie": {"type": "apiKey", "in": "cookie", "name": "galleria_key", "description": "the same key, in a browser"},
}


def schema_of(
    model: type[BaseModel],
    mode: JsonSchemaMode = "validation",
    elements: Mapping[str, type[BaseModel]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return a reference to a model's schema, with the definitions that `complete` makes components of the document.

    Args:
        model: the model.
        mode: of what is read or written.
        elements: models of the elements of its lists, where a service validates them one by one.
    """
    models = [(each, mode) for each in (model, *elements.values())]
    references, schema = models_json_schema(models, ref_template=COMPONENTS + "{model}")
    definitions = schema["$defs"]
    for field, element in elements.items():
        definitions[model.__name__]["properties"][field]["items"] = references[element, mode]
    return {**references[model, mode], "$defs": definitions}


def form_fields(model: type[BaseModel], leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the schemas of a model's fields in a form, where a field is sent or left out, and never null."""
    fields = model.model_json_schema()["properties"]
    return {name: _not_null(schema) for name, schema in fields.items() if name not in leave_out}


def complete(document: dict[str, Any], public_paths: tuple[str, ...], problems: Mapping[int | str, Any]) -> None:
    """Complete the document that FastAPI makes of the routes.

    Args:
        document: FastAPI's; it is changed.
        public_paths: prefixes of the paths that need no key.
        problems: the responses that any other path may have.
    """
    components = document.setdefault("components", {})
    document["security"] = [{name: []} for name in SECURITY]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "application/json" in responses.get("422", {}).get("content", {}):
                del responses["422"]  # FastAPI declares it wherever there is a parameter
            if path.startswith(public_paths):
                operation["security"] = []
            else:
                operation["responses"] = {**{str(status): each for status, each in problems.items()}, **responses}
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name, schema in _take_definitions(document):
        if schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two schemas are named {name!r}")
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = dict(SECURITY)


def _take_definitions(part: Any) -> Iterator[tuple[str, Any]]:
    """Remove the definitions from a part of a document, and yield them by name."""
    if isinstance(part, dict):
        yield from list(part.pop("$defs", {}).items())
        part = list(part.values())
    if isinstance(part, list):
        for element in part:
            yield from _take_definitions(element)


def _not_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    others = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**others, "anyOf": kinds} if len(kinds) > 1 else {**others, **(kinds[0] if kinds else {})}


def example_response(operation: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` entry of a successful response, with its example of `EXAMPLES`."""
    content = {"application/json": {"example": EXAMPLES[operation]}}
    return {200: {"description": "Successful Response", "content": content}}


_MODEL = {"family": "text_guided", "hash": "5a1c9e…", "release": "shoes@4"}
_CATALOG = {"version": 42, "count": 1598}
_ITEM = {
    "title": "Red boot",
    "text": "A red boot of leather",
    "category": ["Shoes", "Boots"],
    "product_id": "boot-3",
    "source": "studio",
    "attributes": {"colour": "red", "price": 39.9},
    "image": "/v1/items/shoe-17/image",
}
_SEARCH_RESPONSE = {
    "hits": [{"id": "shoe-17", "score": 0.83, "item": _ITEM}],
    "next": "NWExY1yPwvUoXOo_EQAAAAAAAAAKAA",
    "predicted": {},
    "match_score": 0.61,
    "no_match": False,
    "partial": False,
    "shards": {"searched": 4, "total": 4},
    "stages": {"read_ms": 0.4, "embed_ms": 17.2, "search_ms": 0.6, "fetch_ms": 0.9},
    "latency_ms": 19.1,
    "model": _MODEL,
    "catalog": _CATALOG,
}
_PROBLEM = {
    "type": "urn:galleria:problem:invalid-request",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "text: is empty: write at least one word",
    "request_id": "9f2c…",
    "errors": [{"field": "text", "message": "is empty: write at least one word"}],
}
_CLASSES = {"label": "calm", "classes": [{"name": "calm", "probability": 0.81}, {"name": "tense", "probability": 0.19}]}
_EVENTS = {
    "events": [{"name": "departure", "probability": 0.93, "over_threshold": True}],
    "key_frames": [{"seconds": 3.0, "attention": 0.62}],
    "timeline": [{"seconds": 0.0, "attention": 0.38}, {"seconds": 3.0, "attention": 0.62}],
}
_ALIASES = {"aliases": {"search": {"release": "shoes@4", "canary": "shoes@5", "canary_weight": 0.05}}}


def _prediction(family: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "result": result,
        "model": {"name": family, "family": family, "hash": "77d0…", "release": None},
        "stages": {"read_ms": 0.4, "predict_ms": 21.7},
        "latency_ms": 22.3,
    }


_METADATA = {
    "name": "search",
    "versions": ["5a1c9e…"],
    "platform": "galleria_text_guided",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 256]}],
}
_INFERENCE = {
    "model_name": "search",
    "model_version": "5a1c9e…",
    "id": "",
    "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [1, 3], "data": [0.12, -0.03, 0.4]}],
}
_LISTED_MODEL = {"id": "search", "object": "model", "created": 0, "owned_by": "galleria"}

EXAMPLES: Mapping[str, Any] = {
    "POST /v1/search": _SEARCH_RESPONSE,
    "POST /v1/search/batch": {
        "outcomes": [{"status": 200, "answer": _SEARCH_RESPONSE}, {"status": 422, "problem": _PROBLEM}],
        "latency_ms": 23.4,
    },
    "GET /v1/catalog": {
        **_CATALOG,
        "writable": True,
        "bundle_hash": "5a1c9e…",
        "dimension": 256,
        "index_version": 40,
        "unindexed": 3,
        "shards": [{"kind": "HNSW32", "indexed": 1595, "unindexed": 3}],
    },
    "GET /v1/items/{item_id}": {"id": "shoe-17", "item": _ITEM, "vector": None, "catalog": _CATALOG},
    "PUT /v1/items": {
        "version": 43,
        "items": [
            {"id": "shoe-17", "status": "updated", "problem": None},
            {"id": "shoe-18", "status": "rejected", "problem": "the picture is cut short: send the whole file"},
        ],
        "latency_ms": 31.0,
    },
    "DELETE /v1/items/{item_id}": {
        "version": 44,
        "items": [{"id": "shoe-17", "status": "deleted", "problem": None}],
        "latency_ms": 9.5,
    },
    "POST /v1/classify/{model}": _prediction("aesthetic_emotion", {"emotion": _CLASSES}),
    "POST /v1/events/{model}": _prediction("video_event", _EVENTS),
    "POST /v1/embeddings": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.03, 0.4]}],
        "model": "search",
        "hash": "5a1c9e…",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    },
    "GET /v1/aliases": _ALIASES,
    "PUT /v1/aliases/{name}": _ALIASES,
    "GET /v1/models": {
        "models": [
            {
                "name": "search",
                **_MODEL,
                "kind": "search",
                "inputs": ["image", "text"],
                "dimension": 256,
                "slices": [32, 64, 128],
                "levels": 0,
                "metrics": {"R@1": 0.58, "no_match/score": 0.61},
                "runtime": "onnx",
            }
        ],
        "object": "list",
        "data": [_LISTED_MODEL],
    },
    "GET /v1/models/{model}": _LISTED_MODEL,
    "GET /v1/limits": LIMITS.model_dump(),
    "GET /livez": {"status": "alive"},
    "GET /readyz": {
        "status": "ready",
        "degraded": [
            {"component": "maintenance", "problem": "maintenance failed 4 times in a row: see the service's log"}
        ],
    },
    "GET /v2": {"name": "galleria", "version": "2", "extensions": ["binary_tensor_data"]},
    "GET /v2/health/live": {"live": True},
    "GET /v2/health/ready": {"ready": True},
    "GET /v2/models/{model}": _METADATA,
    "GET /v2/models/{model}/ready": {"ready": True},
    "POST /v2/models/{model}/infer": _INFERENCE,
    "GET /v2/models/{model}/versions/{version}": _METADATA,
    "GET /v2/models/{model}/versions/{version}/ready": {"ready": True},
    "POST /v2/models/{model}/versions/{version}/infer": _INFERENCE,
}
"""Example of every response in JSON, by method and path."""
