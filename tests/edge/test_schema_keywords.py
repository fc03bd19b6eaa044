"""Every keyword of JSON Schema, draft 3 to 2020-12: enforced token by token, checked afterwards, or refused.

None may be ignored in silence. Each row has an instance that the schema admits and one that it does not.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.checked import checked_constraint
from edge.constraint import Constraint, ConstraintCompiler
from edge.errors import EdgeError
from edge.schema_check import subschemas
from tests.edge.toy_vocabulary import ByteVocabulary

ENFORCED: list[tuple[dict[str, Any], Any, Any]] = [
    ({"type": "integer"}, 1, "a"),
    ({"enum": [1]}, 1, 2),
    ({"const": 1}, 1, 2),
    ({"multipleOf": 3, "type": "integer"}, 6, 7),
    ({"maximum": 3, "type": "integer"}, 3, 4),
    ({"exclusiveMaximum": 3, "type": "integer"}, 2, 3),
    ({"maximum": 3, "exclusiveMaximum": True, "type": "integer"}, 2, 3),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "maximum": 3,
            "exclusiveMaximum": True,
            "type": "integer",
        },
        2,
        3,
    ),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}, 4, 3),
    ({"minimum": 3}, 3, 2),
    ({"exclusiveMinimum": 3}, 4, 3),
    ({"maxLength": 1}, "a", "ab"),
    ({"minLength": 2}, "ab", "a"),
    ({"pattern": "^a"}, "ab", "b"),
    ({"format": "date"}, "2020-01-01", "x"),
    ({"items": {"type": "integer"}}, [1], ["a"]),
    ({"items": [{"type": "integer"}], "additionalItems": False}, [1], [1, 2]),
    ({"prefixItems": [{"type": "integer"}], "items": False}, [1], [1, 2]),
    ({"maxItems": 1}, [1], [1, 2]),
    ({"minItems": 2}, [1, 2], [1]),
    ({"properties": {"a": {"type": "integer"}}}, {"a": 1}, {"a": "x"}),
    ({"patternProperties": {"^a": {"type": "integer"}}}, {"ab": 1}, {"ab": "x"}),
    ({"additionalProperties": False}, {}, {"a": 1}),
    ({"required": ["a"]}, {"a": 1}, {}),
    ({"maxProperties": 1}, {"a": 1}, {"a": 1, "b": 2}),
    ({"minProperties": 1}, {"a": 1}, {}),
    ({"allOf": [{"minimum": 1}]}, 1, 0),
    ({"anyOf": [{"type": "null"}]}, None, 1),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1, 2),
    ({"$ref": "#/definitions/a", "definitions": {"a": {"const": 1}}}, 1, 2),
    ({"$ref": "#foo", "$defs": {"a": {"$anchor": "foo", "const": 1}}}, 1, 2),
    ({"$id": "https://e.com/a", "$ref": "https://e.com/a#/$defs/x", "$defs": {"x": {"const": 1}}}, 1, 2),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "https://e.com/a",
            "properties": {"a": {"$ref": "#/definitions/x"}},
            "definitions": {"x": {"enum": [1]}},
        },
        {"a": 1},
        {"a": 2},
    ),
    ({"$vocabulary": {}, "const": 1}, 1, 2),
    (
        {
            "title": "a",
            "description": "b",
            "default": 1,
            "examples": [1],
            "deprecated": True,
            "readOnly": True,
            "writeOnly": True,
            "$comment": "x",
            "const": 1,
        },
        1,
        2,
    ),
    ({"type": ["integer", "null"]}, 1, "a"),
    ({"$ref": "#/$defs/a", "maximum": 5, "$defs": {"a": {"type": "integer"}}}, 5, 6),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "properties": {"a": {"$ref": "#/definitions/x", "maximum": 5}},
            "definitions": {"x": {"type": "integer"}},
        },
        {"a": 5},
        {"a": 6},
    ),
    ({"nullable": True, "type": "string"}, "a", None),
    ({"discriminator": {"propertyName": "a"}, "const": 1}, 1, 2),
    ({"x-foo": 1, "const": 1}, 1, 2),
    ({"unknownThing": 1, "const": 1}, 1, 2),
]
CHECKED: list[tuple[dict[str, Any], Any, Any]] = [
    ({"format": "regex"}, "a", "["),
    ({"format": "idn-email"}, "a@b", "a"),
    ({"uniqueItems": True}, [1, 2], [1, 1]),
    ({"contains": {"const": 1}}, [1], [2]),
    ({"contains": {"const": 1}, "minContains": 2}, [1, 1], [1]),
    ({"contains": {"const": 1}, "maxContains": 1}, [1], [1, 1]),
    ({"propertyNames": {"maxLength": 1}}, {"a": 1}, {"ab": 1}),
    ({"dependencies": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    ({"dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"b": 1}, {"a": 1}),
    ({"oneOf": [{"minimum": 2}, {"maximum": 5}]}, 1, 3),
    ({"not": {"const": 1}}, 2, 1),
    ({"if": {"const": 1}, "then": {"minimum": 2}}, 2, 1),
    ({"if": {"minimum": 5}, "else": {"const": 1}}, 1, 2),
    ({"unevaluatedItems": False, "prefixItems": [{}]}, [1], [1, 2]),
    ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"a": 1}, {"b": 1}),
    ({"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a", "const": 1}}}, 1, 2),
    (
        {
            "$schema": "https://json-schema.org/draft/2019-09/schema",
            "$recursiveAnchor": True,
            "properties": {"a": {"$recursiveRef": "#"}},
            "type": "object",
        },
        {"a": {}},
        {"a": 1},
    ),
    ({"contentEncoding": "base64", "type": "string"}, "YQ==", "?"),
    ({"contentMediaType": "application/json", "type": "string"}, "1", "{"),
    ({"contentEncoding": "base16"}, "AB", "xy"),
    ({"contentMediaType": "application/json", "contentSchema": {"minimum": 2}}, "3", "1"),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"contentSchema": {"const": 1}}, "contentSchema without contentMediaType"),
    ({"format": "uri-reference"}, "The format 'uri-reference' at #/format can neither be enforced nor checked there."),
    ({"format": "json-pointer"}, "The format 'json-pointer' at #/format can neither be enforced nor checked there."),
    ({"format": "iri"}, "The format 'iri' at #/format can neither be enforced nor checked there."),
    ({"format": 7}, "The JSON Schema cannot be enforced: Expected string for 'format', got 7 (at #)."),
    (
        {"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 2},
        "The JSON Schema has the unknown keyword 'divisibleBy' at #; it would be ignored.",
    ),
    ({"disallow": "string"}, "The JSON Schema has the unknown keyword 'disallow' at #; it would be ignored."),
    ({"extends": {"const": 1}}, "The JSON Schema has the unknown keyword 'extends' at #; it would be ignored."),
    (
        {"properties": {"a": {"required": True}}},
        "The JSON Schema has required: true at #/properties/a, which only draft 3 knows.",
    ),
    ({"type": "any"}, "The JSON Schema cannot be enforced: Invalid type: any (at #)."),
    ({"type": 7}, "The JSON Schema cannot be enforced: type must be a string or array of strings (at #)."),
    ({"type": [{"const": 1}]}, "The JSON Schema cannot be enforced: type must be a string (at #)."),
    (
        {"$schema": "http://json-schema.org/draft-03/schema#", "type": [{"type": "integer"}, "null"]},
        "The JSON Schema cannot be enforced: type must be a string (at #).",
    ),
    (
        {"contentEncoding": "quoted-printable"},
        "The JSON Schema has at # the contentEncoding 'quoted-printable' (known are base64, base32,",
    ),
    (
        {"contentMediaType": "text/html"},
        "The JSON Schema has at # the contentMediaType 'text/html'",
    ),
]
ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    return ConstraintCompiler(ByteVocabulary())


def can_be_written(compiler: ConstraintCompiler, constraint: Constraint, value: Any) -> bool:
    matcher = compiler.compile(constraint)
    for token in json.dumps(value).encode():
        if not matcher.is_allowed(token):
            return False
        matcher.accept(token)
    return matcher.is_accepting


def named(rows: list[Any]) -> list[str]:
    return ["-".join(row[0])[:50] for row in rows]


@pytest.mark.parametrize(("schema", "valid", "invalid"), ENFORCED, ids=named(ENFORCED))
def test_what_can_be_enforced_is(
    compiler: ConstraintCompiler, schema: dict[str, Any], valid: Any, invalid: Any
) -> None:
    constraint = Constraint.json_schema(schema)
    assert checked_constraint(constraint) is None
    assert can_be_written(compiler, constraint, valid)
    assert not can_be_written(compiler, constraint, invalid)


@pytest.mark.parametrize(("schema", "valid", "invalid"), CHECKED, ids=named(CHECKED))
def test_what_cannot_be_enforced_is_checked(
    compiler: ConstraintCompiler, schema: dict[str, Any], valid: Any, invalid: Any
) -> None:
    checked = checked_constraint(Constraint.json_schema(schema))
    assert checked is not None
    assert can_be_written(compiler, checked.enforced, valid)
    assert checked.check.violations(json.dumps(valid)) == []
    assert checked.check.violations(json.dumps(invalid))


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=named(REFUSED))
def test_what_can_be_neither_is_refused(compiler: ConstraintCompiler, schema: dict[str, Any], message: str) -> None:
    constraint = Constraint.json_schema(schema)
    with pytest.raises(EdgeError) as caught:
        checked_constraint(constraint)
    assert message in caught.value.message
    assert caught.value.hint


def test_no_keyword_of_any_draft_is_missing_here() -> None:
    from jsonschema import validators

    schemas = [schema for schema, *_ in [*ENFORCED, *CHECKED, *REFUSED]]
    tried = {keyword for schema in schemas for _, node in subschemas(schema, "#") for keyword in node}
    drafts = [validators.Draft3Validator, validators.Draft4Validator, validators.Draft6Validator]
    drafts += [validators.Draft7Validator, validators.Draft201909Validator, validators.Draft202012Validator]
    known = {keyword for draft in drafts for keyword in draft.VALIDATORS}
    known |= {"then", "else", "minContains", "maxContains", "contentEncoding", "contentMediaType", "contentSchema"}
    assert known <= tried
    assert tried >= ANNOTATIONS


@pytest.mark.parametrize("name", ["path", "color", "date_time"])
def test_a_format_that_the_standard_does_not_have_is_told_to_be_a_comment(name: str) -> None:
    with pytest.warns(UserWarning, match=f"format '{name}' at #/format is none of JSON Schema's"):
        checked_constraint(Constraint.json_schema({"format": name, "title": f"only for {name}"}))
