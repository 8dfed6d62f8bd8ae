"""A validator of what a bundle's schemas use of JSON Schema 2020-12; an unknown keyword is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from attn_export import bundle


def shipped(name: str) -> dict[str, Any]:
    """The schema of a bundle's file as it lies in the package."""
    text = files("attn_export.bundle").joinpath(f"schema/{name}.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


MANIFEST, REPORT = shipped("manifest"), shipped("report")
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
_KNOWN = {"$schema", "$ref", "$defs", "title", "description", "type", "enum", "anyOf", "required", "properties"}
_KNOWN |= {"additionalProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength"}
_KNOWN |= {"minimum", "exclusiveMinimum", "maximum"}


def faults(value: Any, schema: dict[str, Any] = REPORT) -> list[str]:
    """What is wrong with ``value``, each with its place; empty where it is valid."""
    return list(_faults(value, schema, "$", schema["$defs"]))


def folder_faults(folder: Path) -> list[str]:
    """What is wrong with the files of a bundle; what is not there is not looked at."""
    found = []
    for name, schema in ((bundle.MANIFEST, MANIFEST), (bundle.REPORT, REPORT)):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            found += [f"{name}: {fault}" for fault in faults(content, schema)]
    return found


def _faults(value: Any, schema: dict[str, Any], at: str, known: dict[str, Any]) -> Iterator[str]:
    assert not set(schema) - _KNOWN, f"{at}: the validator knows no {set(schema) - _KNOWN}"
    if "$ref" in schema:
        yield from _faults(value, known[schema["$ref"].removeprefix("#/$defs/")], at, known)
    if "anyOf" in schema:
        tried = [list(_faults(value, option, at, known)) for option in schema["anyOf"]]
        if all(tried):
            yield from max(tried, key=lambda found: len(found[0].partition(":")[0]))  # the nearest to fitting
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{at}: wanted {kinds}, came {type(value).__name__}"
        return
    if "enum" in schema and not any(type(value) is type(choice) and value == choice for choice in schema["enum"]):
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if _is(value, "number"):
        yield from _number(value, schema, at)
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: {len(value)} characters"
    if isinstance(value, dict):
        yield from _object(value, schema, at, known)
    if isinstance(value, list):
        yield from _array(value, schema, at, known)


def _number(value: float, schema: dict[str, Any], at: str) -> Iterator[str]:
    if value < schema.get("minimum", value):
        yield f"{at}: {value} is below {schema['minimum']}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        yield f"{at}: {value} is not above {schema['exclusiveMinimum']}"
    if value > schema.get("maximum", value):
        yield f"{at}: {value} is above {schema['maximum']}"


def _object(value: dict[str, Any], schema: dict[str, Any], at: str, known: dict[str, Any]) -> Iterator[str]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    yield from (f"{at}: {name!r} is missing" for name in schema.get("required", []) if name not in value)
    for name, item in value.items():
        if name in properties:
            yield from _faults(item, properties[name], f"{at}.{name}", known)
        elif others is False:
            yield f"{at}: {name!r} is unknown"
        else:
            yield from _faults(item, others, f"{at}.{name}", known)


def _array(value: list[Any], schema: dict[str, Any], at: str, known: dict[str, Any]) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at}: {len(value)} items"
    first = schema.get("prefixItems", [])
    for index, item in enumerate(value):
        inner = first[index] if index < len(first) else schema.get("items", {})
        yield from _faults(item, inner, f"{at}[{index}]", known)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (kind in ("integer", "number") and isinstance(value, bool))
