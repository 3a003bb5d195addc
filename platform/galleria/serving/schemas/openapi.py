"""Schemas for the reference at /docs."""

from typing import Any

from pydantic import BaseModel


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema that refers to nothing outside itself, so that it can stand anywhere in the reference."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(one) for one in part]
        if not isinstance(part, dict):
            return part
        name = part.get("$ref", "").removeprefix("#/$defs/")
        return resolved(definitions[name]) if name else {key: resolved(value) for key, value in part.items()}

    found: dict[str, Any] = resolved(schema)
    return found
