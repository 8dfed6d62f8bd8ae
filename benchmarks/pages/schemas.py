"""Generate the JSON schemas of a bundle, and the tables of ``docs/bundle-format.md``, from the classes that read it.

A test compares all three, so that reader, schema and page cannot drift apart.

python -m benchmarks.pages.schemas
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from attn_export.bundle.figures import ReportRecord
from attn_export.bundle.manifest import ManifestRecord
from attn_export.types import JsonDict
from attn_export.untrusted.fields import Within

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "src/attn_export/bundle/schema"
PAGE = ROOT / "docs/bundle-format.md"
#: Each file of a bundle with the class that it is read into.
FILES: Mapping[str, type] = {"manifest": ManifestRecord, "report": ReportRecord}
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


def schema(name: str) -> JsonDict:
    """Make the JSON Schema (2020-12) of a bundle's file."""
    definitions: dict[str, JsonDict] = {}
    top = _object(FILES[name], definitions)
    title = f"{name}.json of an attn-export bundle"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text(name: str) -> str:
    """Write the schema as it lies in the package."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def descriptions(kind: type) -> tuple[str, dict[str, str]]:
    """Read what a class and each of its fields is for from its docstring.

    Raises:
        ValueError: a field is not described, or what is described is no field.
    """
    head, _, rest = inspect.cleandoc(kind.__doc__ or "").replace("``", "`").partition("\n\nAttributes:\n")
    found = {m[1]: " ".join(m[2].split()) for m in re.finditer(r"^    (\w+): (.+?)(?=^    \w|\Z)", rest, re.M | re.S)}
    fields = [field.name for field in dataclasses.fields(kind)]
    if list(found) != fields:
        raise ValueError(f"{kind.__name__}: expected a line on each of {fields} in this order, got {list(found)}")
    return " ".join(head.split()), {name: text[0].upper() + text[1:] for name, text in found.items()}


def definition_name(kind: type) -> str:
    """Name a class as the schema does.

    >>> definition_name(ReportRecord)
    'report'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Record")).lower()


def _object(kind: type, definitions: dict[str, JsonDict]) -> JsonDict:
    about, lines = descriptions(kind)
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    bare = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return {
        "description": about,
        "type": "object",
        "required": bare,
        "additionalProperties": False,
        "properties": {f.name: {"description": lines[f.name], **_of(hints[f.name], definitions)} for f in fields},
    }


def _of(kind: Any, definitions: dict[str, JsonDict]) -> JsonDict:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if kind is Any:
        return {}
    if origin is Annotated:
        return _of(arguments[0], definitions) | _bounds(arguments[0], arguments[1])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _union([_of(choice, definitions) for choice in arguments])
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _of(arguments[0], definitions)}
        items = [_of(item, definitions) for item in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inner = _of(arguments[1], definitions)
        return {"type": "object", **({"additionalProperties": inner} if inner else {})}
    name = definition_name(kind)
    if name not in definitions:
        definitions[name] = {}  # where a class holds itself
        definitions[name] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _bounds(kind: Any, within: Within) -> JsonDict:
    low, high = {
        "string": ("minLength", "maxLength"),
        "array": ("minItems", "maxItems"),
    }.get(str(_of(kind, {}).get("type")), ("exclusiveMinimum" if within.above else "minimum", "maximum"))
    ends = ((low, within.least), (high, within.most))
    return {name: int(end) if end == int(end) else end for name, end in ends if math.isfinite(end)}


def _union(choices: list[JsonDict]) -> JsonDict:
    """Write a choice; the short form where nothing but kinds is told apart."""
    null = {"type": "null"}
    rest = [choice for choice in choices if choice != null]
    if len(rest) == 1 and null in choices and "type" in rest[0]:
        return {**rest[0], "type": [rest[0]["type"], "null"]}
    return {"anyOf": choices}


def tables(name: str) -> str:
    """Write the fields of a file as Markdown: one table for the file, one for each kind of object in it."""
    made = schema(name)
    parts = [_table(made)]
    for key, inner in made["$defs"].items():
        parts.append(f"#### `{key}`\n\n{inner['description']}\n\n{_table(inner)}")
    return "\n\n".join(parts)


def _table(made: JsonDict) -> str:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, item in made["properties"].items():
        star = "" if name in made["required"] else " *"
        rows.append(f"| `{name}`{star} | {_words(item)} | {item['description']} |")
    return "\n".join(rows)


def _words(item: JsonDict) -> str:
    """Say a type in a few words."""
    if "$ref" in item:
        key = item["$ref"].rpartition("/")[2]
        return f"[{key}](#{key})"
    if "anyOf" in item:
        return " or ".join(_words(choice) for choice in item["anyOf"])
    if "enum" in item:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in item["enum"])
    kind = item.get("type")
    if isinstance(kind, list):
        return f"{_words({**item, 'type': kind[0]})} or null"
    if "prefixItems" in item:
        return f"list of {', '.join(map(_words, item['prefixItems']))}"
    if kind == "array":
        return f"list of {_words(item['items'])}"
    if kind == "object":
        inner = item.get("additionalProperties")
        return f"object of {_words(inner)}" if inner else "object"
    bounds = [f"{sign} {item[key]:g}" for key, sign in _SIGNS.items() if key in item]
    return " ".join([str(kind or "anything"), *bounds])


_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}


def page_text() -> str:
    """Give ``docs/bundle-format.md`` with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name in FILES:
        begin, end = f"<!-- fields of {name}.json -->", "<!-- end of fields -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{tables(name)}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in FILES:
        (FOLDER / f"{one}.schema.json").write_text(schema_text(one), encoding="utf-8")
    if PAGE.is_file():
        PAGE.write_text(page_text(), encoding="utf-8")
    print(FOLDER)
