"""Instances written as a generator held to their schema writes them: properties in the order of the schema.

JSON does not care about the order; a constraint does, because it has to know what may come next.
"""

from __future__ import annotations

import re
from typing import Any

from edge.schema_check import Schema

_MAX_REFERENCES = 50  # in a row


def in_schema_order(instance: Any, schema: Any, root: Schema) -> Any:
    """The instance with the properties of its objects as the schema orders them; others come last, as they stood.

    Of alternatives, the schema is taken to mean the one that knows most of an object's properties.
    """
    if isinstance(instance, list):
        return [in_schema_order(item, _of_item(schema, index, root), root) for index, item in enumerate(instance)]
    if not isinstance(instance, dict):
        return instance
    properties = _properties(schema, instance, root)
    required = [name for part in _parts(schema, root) for name in part.get("required", ())]
    places = {name: place for place, name in enumerate(dict.fromkeys([*properties, *required]))}
    names = sorted(instance, key=lambda name: places.get(name, len(places)))
    return {
        name: in_schema_order(instance[name], properties.get(name) or _of_other(schema, name, root), root)
        for name in names
    }


def _of_other(schema: Any, name: str, root: Schema) -> Any:
    """The schema of a property that is not declared by its name."""
    parts = _parts(schema, root)
    for part in parts:
        for pattern, value in part.get("patternProperties", {}).items():
            if re.search(pattern, name):
                return value
    return next((part["additionalProperties"] for part in parts if "additionalProperties" in part), {})


def _properties(schema: Any, instance: dict[str, Any], root: Schema) -> dict[str, Any]:
    """The schemas of an object's properties by name, in order."""
    found: dict[str, Any] = {}
    for part in _parts(schema, root):
        if isinstance(part.get("properties"), dict):
            found |= {name: value for name, value in part["properties"].items() if name not in found}
        for keyword in ("anyOf", "oneOf"):
            alternatives = [_properties(each, instance, root) for each in part.get(keyword, ())]
            best = max(alternatives, key=lambda known: _fit(known, instance), default={})
            found |= {name: value for name, value in best.items() if name not in found}
    return found


def _fit(known: dict[str, Any], instance: dict[str, Any]) -> tuple[int, int]:
    """How well an alternative's properties are an object's: names in common, and constants that are the same."""
    common = known.keys() & instance.keys()
    constants = {name: known[name] for name in common if isinstance(known[name], dict)}
    same = sum(
        instance[name] == value["const"] if "const" in value else instance[name] in value["enum"]
        for name, value in constants.items()
        if "const" in value or "enum" in value
    )
    return same, len(common)


def _of_item(schema: Any, index: int, root: Schema) -> Any:
    for part in _parts(schema, root):
        for keyword in ("prefixItems", "items"):
            items = part.get(keyword)
            if isinstance(items, list) and index < len(items):
                return items[index]
        if isinstance(part.get("items"), dict):
            return part["items"]
        for keyword in ("anyOf", "oneOf"):
            items = next(
                (each for each in part.get(keyword, ()) if any("items" in p for p in _parts(each, root))), None
            )
            if items is not None:
                return _of_item(items, index, root)
    return {}


def _parts(schema: Any, root: Schema, references: int = 0) -> list[Schema]:
    """The schemas that hold together: itself, what it refers to, and what it lists under allOf."""
    if not isinstance(schema, dict) or references > _MAX_REFERENCES:
        return []
    parts = [schema]
    if isinstance(schema.get("$ref"), str):
        parts += _parts(_target(schema["$ref"], root), root, references + 1)
    for part in schema.get("allOf", ()):
        parts += _parts(part, root, references + 1)
    return parts


def _target(reference: str, root: Schema) -> Any:
    node: Any = root
    for step in reference.partition("#")[2].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        node = node.get(name, {}) if isinstance(node, dict) else {}
    return node
