"""A validator of what docs/report.schema.json uses of JSON Schema 2020-12; an unknown keyword is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text(encoding="utf-8"))
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
_KNOWN = {"$schema", "$ref", "$defs", "title", "description", "type", "enum", "minimum", "anyOf"}
_KNOWN |= {"required", "properties", "additionalProperties", "items", "minItems", "maxItems"}


def faults(value: Any, schema: dict[str, Any] | None = None, at: str = "$") -> list[str]:
    """What is wrong with ``value``, each with its place; empty where it is valid."""
    return list(_faults(value, SCHEMA if schema is None else schema, at))


def _faults(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    assert not set(schema) - _KNOWN, f"{at}: the validator knows no {set(schema) - _KNOWN}"
    if "$ref" in schema:
        yield from _faults(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], at)
    if "anyOf" in schema:
        tried = [list(_faults(value, option, at)) for option in schema["anyOf"]]
        if all(tried):
            yield from max(tried, key=lambda found: len(found[0].partition(":")[0]))  # the nearest to fitting
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{at}: wanted {kinds}, came {type(value).__name__}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "minimum" in schema and _is(value, "number") and value < schema["minimum"]:
        yield f"{at}: {value} is below {schema['minimum']}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{at}: {name!r} is missing" for name in schema.get("required", []) if name not in value)
        for name, item in value.items():
            if name in properties:
                yield from _faults(item, properties[name], f"{at}.{name}")
            elif schema.get("additionalProperties") is False:
                yield f"{at}: {name!r} is unknown"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} items"
        for index, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), f"{at}[{index}]")


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (kind in ("integer", "number") and isinstance(value, bool))
