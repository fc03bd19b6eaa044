"""Python types as JSON Schemas: what a reply must be to become a value of the type.

Pydantic models describe themselves, so Pydantic itself is not needed here.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from edge.errors import EdgeError
from edge.schema_check import Schema, pointer_step

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", None: "null"}


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of a type. EdgeError with the part of it that JSON has no form for."""
    definitions: dict[str, Schema] = {}
    schema = _schema(kind, definitions)
    return {**schema, "$defs": definitions} if definitions else schema


def _schema(kind: Any, definitions: dict[str, Schema]) -> Schema:
    if kind is Any:
        return {}
    if isinstance(kind, type | None) and kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    describe = getattr(kind, "model_json_schema", None)
    if isinstance(kind, type) and describe is not None:
        return _described(kind, describe(), definitions)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _one_of_values(kind, [member.value for member in kind])
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind, definitions)
    return _composed(kind, definitions)


def _composed(kind: Any, definitions: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return _one_of_values(kind, list(arguments))
    if origin is Annotated:
        return _schema(arguments[0], definitions)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part, definitions) for part in arguments]}
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        parts = [_schema(part, definitions) for part in arguments]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": _schema(arguments[0], definitions) if arguments else {}}
    if origin in (set, frozenset):
        items = _schema(arguments[0], definitions) if arguments else {}
        return {"type": "array", "items": items, "uniqueItems": True}
    if origin in (dict, Mapping) and (not arguments or arguments[0] is str):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions) if arguments else {}}
    raise EdgeError(
        f"The type {kind!r} has no form in JSON.",
        hint="Dataclasses, enums, Literal, Pydantic models, str, int, float, bool, None, lists, sets,"
        " tuples and dicts by text have one.",
    )


def _one_of_values(kind: Any, values: list[Any]) -> Schema:
    for value in values:
        if not isinstance(value, str | int | float | bool | None):
            raise EdgeError(
                f"{kind!r} holds {value!r}, which has no form in JSON.", hint="Use texts, numbers, booleans or None."
            )
    return {"enum": values}


def _record(kind: type, definitions: dict[str, Schema]) -> Schema:
    """A reference to the definition of a dataclass, which may hold itself."""
    assert dataclasses.is_dataclass(kind)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in definitions:
        definitions[name] = {}
        fields = [field for field in dataclasses.fields(kind) if field.init]
        try:
            hints = get_type_hints(kind)
        except (NameError, TypeError) as error:
            raise EdgeError(
                f"The fields of {kind.__name__} have unknown types: {error}.", hint="Define them in its module."
            ) from error
        definitions[name] |= {
            "type": "object",
            "properties": {field.name: _schema(hints[field.name], definitions) for field in fields},
            "required": [field.name for field in fields if _has_no_default(field)],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{pointer_step(name)}"}


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _described(kind: type, schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """What a Pydantic model says of itself, its own definitions among the others."""
    definitions |= schema.pop("$defs", {})
    return {"title": kind.__name__, **schema}
