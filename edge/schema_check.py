"""What a JSON Schema asks for that would otherwise be ignored, and where in it something stands.

JSON Schema says that unknown keywords mean nothing. A constraint that means nothing because it is misspelt, or written
for an older draft, is refused here instead.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from edge.errors import EdgeError

Schema = dict[str, Any]

OF_SCHEMAS_BY_NAME = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
"""Keywords whose value holds schemas under names of its own."""
OF_SCHEMAS = frozenset(
    {"items", "prefixItems", "additionalItems", "additionalProperties", "contains", "propertyNames", "allOf", "anyOf"}
    | {"oneOf", "not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties"}
)
"""Keywords whose value is a schema, or a list of them."""
_CONSTRAINING = OF_SCHEMAS | frozenset(
    {"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength"}
    | {"minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"}
    | {"maxProperties", "minProperties", "required", "dependentRequired", "properties", "patternProperties", "$ref"}
    | {"dependentSchemas", "dependencies"}
)
_ENGLISH = frozenset({"not", "if", "then", "else", "contains"})  # in a message they are keywords only when quoted
# keywords of drafts 3 and 4 that later drafts no longer know
_REPLACED = {"divisibleBy": "multipleOf", "disallow": "not", "extends": "allOf"}
_SIMILARITY = 0.85
MAX_NESTING = 500
"""Levels that a compiler may be led through. It follows them on the stack, and an overflow there ends the process:
llguidance stands about 1,200 of them with 8 MB."""


def parse_schema(text: str) -> Schema:
    """The schema written in a JSON text; EdgeError with line and column where it is not one."""
    try:
        schema = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
        nesting = (1 + len(_references(schema))) * _depth(schema)
    except json.JSONDecodeError as error:
        raise EdgeError(
            f"The JSON Schema is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            hint="Correct the schema there.",
        ) from error
    except RecursionError:
        nesting = text.count("{") + text.count("[")
    if nesting > MAX_NESTING:
        raise EdgeError(
            f"The JSON Schema leads up to {nesting} levels deep, counting all that it refers to.",
            hint=f"At most {MAX_NESTING} levels can be followed: refer to fewer parts, or nest them less.",
        )
    if not isinstance(schema, dict):
        raise EdgeError(
            f"The JSON Schema is a JSON {_json_type(schema)}.", hint='A schema is an object such as {"type": "object"}.'
        )
    return schema


def refuse_ignored_keywords(schema: Schema) -> None:
    """EdgeError if the schema holds a keyword that asks for something and would be ignored."""
    for pointer, node in subschemas(schema, "#"):
        for keyword, value in node.items():
            meant = _meant_keyword(keyword)
            if keyword == "required" and isinstance(value, bool):
                raise EdgeError(
                    f"The JSON Schema has required: {json.dumps(value)} at {pointer}, which only draft 3 knows.",
                    hint='List required names in the object\'s own schema: "required": ["name", ...].',
                )
            if meant is not None:
                raise EdgeError(
                    f"The JSON Schema has the unknown keyword {keyword!r} at {pointer}; it would be ignored.",
                    hint=f"Did you mean {meant!r}? Otherwise rename it, for example to 'x-{keyword}'.",
                )


def find_places(schema: Schema, reason: str) -> str:
    """Where in the schema the subject of a refusal stands, as JSON pointers to put behind it; empty if unclear."""
    quoted, words = set(re.findall(r'"([$\w]+)"', reason)), set(re.findall(r"[$\w]+", reason))
    subjects = (quoted | words - _ENGLISH) & _CONSTRAINING
    subjects |= {
        keyword for word, keyword in (("regex", "pattern"), ("Pointer", "$ref"), ("Resource", "$ref")) if word in reason
    }
    places = [
        (pointer, node[keyword]) for pointer, node in subschemas(schema, "#") for keyword in subjects & node.keys()
    ]
    told = [pointer for pointer, value in places if not isinstance(value, dict | list) and _tells(reason, value)]
    pointers = sorted(set(told or [pointer for pointer, _ in places]))
    if not pointers:
        return ""
    more = f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
    return f" (at {pointers[0]}{more})"


def _tells(reason: str, value: object) -> bool:
    text = str(value)
    return text in reason or any(part in text for part in re.findall(r"'([^']{2,})'", reason))


def subschemas(node: object, pointer: str) -> Iterator[tuple[str, Schema]]:
    """Every schema within a schema with its JSON pointer, the whole first."""
    if not isinstance(node, dict):
        return
    yield pointer, node
    for keyword, value in node.items():
        at = f"{pointer}/{keyword}"
        if keyword in OF_SCHEMAS_BY_NAME and isinstance(value, dict):
            for name, part in value.items():
                yield from subschemas(part, f"{at}/{pointer_step(name)}")
        elif keyword in OF_SCHEMAS and isinstance(value, list):
            for index, part in enumerate(value):
                yield from subschemas(part, f"{at}/{index}")
        elif keyword in OF_SCHEMAS:
            yield from subschemas(value, at)


def pointer_step(name: str) -> str:
    """A member's name as it stands in a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _meant_keyword(keyword: str) -> str | None:
    """The constraining keyword that this one was probably meant to be, or None if it means something else."""
    if keyword in _CONSTRAINING or keyword.startswith(("x-", "_", "$")):
        return None
    if keyword in _REPLACED:
        return _REPLACED[keyword]
    plain = keyword.replace("_", "").replace("-", "").lower()
    same = next((known for known in _CONSTRAINING if known.lower() == plain), None)
    return same or next(iter(difflib.get_close_matches(keyword, _CONSTRAINING, n=1, cutoff=_SIMILARITY)), None)


def _references(value: object) -> set[str]:
    """Every distinct target of a $ref in the value."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    own = {value["$ref"]} if isinstance(value, dict) and isinstance(value.get("$ref"), str) else set()
    return own.union(*(_references(part) for part in parts))


def _depth(value: object) -> int:
    """How many objects and arrays stand in each other."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max((_depth(part) for part in parts), default=0)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise EdgeError(
            f"The JSON Schema has the member {repeated!r} twice in one object.", hint="Only one of them can hold."
        )
    return members


def _refuse_constant(constant: str) -> None:
    raise EdgeError(f"The JSON Schema holds {constant}, which JSON does not know.", hint="Use a number.")


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "boolean", list: "array", str: "string"}.get(type(value), "number")
