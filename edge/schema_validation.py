"""Whole instances held to a JSON Schema: what a constraint cannot enforce token by token is checked here.

A keyword that the schema's own draft does not know, but another draft does, means what it means there: none is ignored.
References are followed within the schema and never fetched.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from edge.errors import EdgeError
from edge.schema_check import Schema, pointer_step, subschemas
from edge.schema_content import CONTENT_KEYWORDS, check_content, refuse_unknown_content
from edge.schema_relaxation import ENFORCED_FORMATS, Relaxation

_FROM_OTHER_DRAFTS = (
    frozenset({"not", "uniqueItems", "contains", "propertyNames", "if", "const", "prefixItems", "dependencies"})
    | {"dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"}
    | {"$dynamicRef", "$recursiveRef"}
)
_STANDARD_FORMATS = ENFORCED_FORMATS | frozenset(
    {"idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer"}
    | {"relative-json-pointer", "regex"}
)
_MAX_VIOLATIONS = 20  # more do not tell which of two attempts is better
_MAX_MESSAGE_CHARACTERS = 200
_MAX_PATTERN_SECONDS = 1.0  # for one string; nothing but an explosion of possibilities takes as long


@dataclass(frozen=True)
class Violation:
    """A keyword that an instance does not satisfy, with the way to it through the schema and what is wrong.

    The way is a JSON pointer that leaves out references on it. The keyword is empty where a text is no JSON at all.
    """

    keyword: str
    pointer: str
    message: str


class SchemaCheck:
    """Says what in a text violates a schema. EdgeError if the schema cannot be used to check anything."""

    def __init__(self, schema: Schema, relaxation: Relaxation) -> None:
        from jsonschema import validators
        from referencing import Registry

        draft = _draft(schema)
        _refuse_what_is_no_schema(schema, draft)
        _refuse_remote_references(schema)
        _refuse_formats_out_of_reach(schema, relaxation, frozenset(draft.FORMAT_CHECKER.checkers))
        added = {name: rule for name, rule in _keyword_rules().items() if name not in draft.VALIDATORS}
        for pointer, node in subschemas(schema, "#"):
            refuse_unknown_content(node, pointer)
        content = dict.fromkeys(CONTENT_KEYWORDS, check_content)
        whole = validators.extend(draft, {**added, **content, "pattern": _check_pattern})
        self._validator = whole(schema, registry=Registry(), format_checker=draft.FORMAT_CHECKER)

    def violations(self, text: str) -> list[Violation]:
        """What is wrong with the instance that the text holds; nothing if it is valid."""
        from referencing.exceptions import Unresolvable

        try:
            instance = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return [Violation("", "#", f"the text is not JSON: {_shortened(error)}")]
        try:
            errors = list(islice(self._validator.iter_errors(instance), _MAX_VIOLATIONS))
        except Unresolvable as error:
            raise _unresolvable(str(getattr(error, "ref", error))) from error
        except (RecursionError, ArithmeticError, TimeoutError) as error:
            return [Violation("", "#", f"the instance cannot be checked: {_shortened(error)}")]
        return [_violation(error) for error in errors]


def _draft(schema: Schema) -> Any:
    """The validator of the draft that the schema names, or that it must be written for."""
    from jsonschema import Draft7Validator, Draft202012Validator
    from jsonschema.validators import validator_for

    name = schema.get("$schema", "")
    if not isinstance(name, str):
        raise EdgeError(f"The JSON Schema has $schema: {json.dumps(name)}.", hint="Name a draft, or leave it out.")
    is_older = any(isinstance(node.get("items"), list) for _, node in subschemas(schema, "#"))
    return validator_for(schema, default=Draft7Validator if is_older else Draft202012Validator)


@lru_cache(maxsize=1)
def _keyword_rules() -> dict[str, Any]:
    from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator

    rules: dict[str, Any] = {}
    for draft in (Draft7Validator, Draft201909Validator, Draft202012Validator):
        rules |= {name: rule for name, rule in draft.VALIDATORS.items() if name in _FROM_OTHER_DRAFTS}
    return rules


def _check_pattern(validator: Any, pattern: str, instance: object, schema: Schema) -> Iterator[Exception]:
    """As jsonschema does, but a pattern that explodes neither hangs the process nor stops its other threads."""
    import regex
    from jsonschema import ValidationError

    if not isinstance(instance, str):
        return
    try:
        is_match = regex.search(pattern, instance, concurrent=True, timeout=_MAX_PATTERN_SECONDS)
    except regex.error as error:
        raise EdgeError(
            f"The pattern {pattern!r} cannot be read: {error}.", hint="Keep to what regular expressions share."
        ) from error
    if not is_match:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _refuse_what_is_no_schema(schema: Schema, draft: Any) -> None:
    from jsonschema.exceptions import SchemaError

    try:
        draft.check_schema(schema)
    except SchemaError as error:
        pointer = _pointer(error.absolute_path)
        raise EdgeError(
            f"The JSON Schema is none: at {pointer}, {_shortened(error.message)}.", hint="Correct it there."
        ) from error
    except RecursionError as error:
        raise EdgeError("The JSON Schema is nested too deeply to be checked.", hint="Nest it less.") from error


def _refuse_remote_references(schema: Schema) -> None:
    nodes = [node for _, node in subschemas(schema, "#")]
    own = {str(node[keyword]).rstrip("#") for node in nodes for keyword in ("$id", "id") if keyword in node}
    for node in nodes:
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = node.get(keyword, "#")
            document = str(reference).partition("#")[0]
            if document and document not in own and not any(name.endswith(f"/{document}") for name in own):
                raise _unresolvable(str(reference))


def _refuse_formats_out_of_reach(schema: Schema, relaxation: Relaxation, checked: frozenset[str]) -> None:
    """EdgeError where a format of the standard would go unnoticed; a warning where the standard has no such format."""
    unenforced = [pointer for pointer in relaxation.unenforced if not pointer.endswith("/oneOf")]
    for pointer, node in subschemas(schema, "#"):
        name, at = node.get("format"), f"{pointer}/format"
        if not isinstance(name, str) or name in checked:
            continue
        if name not in _STANDARD_FORMATS:
            message = f"The format {name!r} at {at} is none of JSON Schema's, which takes it for a comment."
            warnings.warn(message, stacklevel=2)
        elif any(at == left or at.startswith(f"{left}/") for left in unenforced):
            raise EdgeError(
                f"The format {name!r} at {at} can neither be enforced nor checked there.",
                hint="Say it with a pattern, or leave it out.",
            )


def _violation(error: Any) -> Violation:
    place = "" if error.json_path == "$" else f" at {error.json_path}"
    return Violation(str(error.validator), _pointer(error.absolute_schema_path), f"{_shortened(error.message)}{place}")


def _pointer(path: Any) -> str:
    return "/".join(["#", *(pointer_step(str(step)) for step in path)])


def _unresolvable(reference: str) -> EdgeError:
    return EdgeError(
        f"The JSON Schema refers to {reference!r}, which is not within it; nothing is fetched.",
        hint="Only references within the schema can be followed, such as #/$defs/name.",
    )


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _shortened(message: object) -> str:
    text = " ".join(str(message).split()).rstrip(".")
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else f"{text[:_MAX_MESSAGE_CHARACTERS]}..."
