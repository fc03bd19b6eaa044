"""JSON Schemas that are refused before they are compiled, and where a refusal points to."""

from __future__ import annotations

import json
import re

import pytest

from edge.errors import EdgeError
from edge.schema_check import MAX_NESTING, find_places, parse_schema, refuse_ignored_keywords


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "object",\n "title" 1}', "not valid JSON: line 2, column 10: Expecting ':' delimiter"),
        ("", "not valid JSON: line 1, column 1"),
        ("[1]", "is a JSON array"),
        ("true", "is a JSON boolean"),
        ("null", "is a JSON null"),
        ("1.5", "is a JSON number"),
        ('"object"', "is a JSON string"),
        ('{"a": {"type": "string", "type": "integer"}}', "the member 'type' twice"),
        ('{"maximum": Infinity}', "holds Infinity"),
    ],
)
def test_text_that_is_no_schema_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        parse_schema(text)
    assert caught.value.hint


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 100_000])
def test_schema_nested_beyond_the_stack_is_refused(depth: int) -> None:
    with pytest.raises(EdgeError, match=rf"leads up to {depth + 1} levels deep") as caught:
        parse_schema('{"items":' * depth + "{}" + "}" * depth)
    assert f"At most {MAX_NESTING}" in caught.value.hint


def test_chain_of_references_counts_as_nesting() -> None:
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(200)}
    with pytest.raises(EdgeError, match="levels deep"):
        parse_schema(json.dumps({"$ref": "#/$defs/d0", "$defs": links}))


def test_one_part_referred_to_often_counts_once() -> None:
    properties = {f"p{i}": {"$ref": "#/$defs/name"} for i in range(1000)}
    schema = {"properties": properties, "$defs": {"name": {"type": "string"}}}
    assert parse_schema(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("schema", "keyword", "place", "meant"),
    [
        ({"additonalProperties": False}, "additonalProperties", "#", "additionalProperties"),
        ({"properties": {"a/b": {"maxLenght": 3}}}, "maxLenght", "#/properties/a~1b", "maxLength"),
        ({"anyOf": [{}, {"max_length": 3}]}, "max_length", "#/anyOf/1", "maxLength"),
        ({"items": {"Pattern": "a"}}, "Pattern", "#/items", "pattern"),
        ({"$defs": {"d": {"not": {"divisibleBy": 3}}}}, "divisibleBy", "#/$defs/d/not", "multipleOf"),
    ],
)
def test_misspelt_or_replaced_keyword_is_refused(
    schema: dict[str, object], keyword: str, place: str, meant: str
) -> None:
    with pytest.raises(EdgeError, match=rf"unknown keyword '{keyword}' at {re.escape(place)};") as caught:
        refuse_ignored_keywords(schema)
    assert f"Did you mean '{meant}'?" in caught.value.hint


def test_required_of_draft_3_is_refused() -> None:
    with pytest.raises(EdgeError, match="required: true at #/properties/a") as caught:
        refuse_ignored_keywords({"properties": {"a": {"type": "string", "required": True}}})
    assert "own schema" in caught.value.hint


def test_keywords_that_only_describe_are_no_constraint() -> None:
    described = {"title": "A", "readonly": True, "x-order": 1, "_format": "date", "javaType": "B", "$comment": "C"}
    refuse_ignored_keywords({**described, "properties": {"maxLenght": {"default": {"maxLenght": 1}}, "requird": True}})


@pytest.mark.parametrize(
    ("reason", "place"),
    [
        ('Unimplemented keys: ["not"]', " (at #/properties/b)"),
        ("Unknown format: path", " (at #/properties/c)"),
        ("Pointer '/$defs/x' does not exist", " (at #/items)"),
        ("minimum (5) is greater than maximum (3)", " (at #/properties/a)"),
        ("oneOf constraints are not supported", " (at #/properties/a and 1 more)"),
        ("incompatible types", ""),
    ],
)
def test_a_refusal_is_given_its_place(reason: str, place: str) -> None:
    properties = {
        "a": {"minimum": 5, "maximum": 3, "oneOf": [{"oneOf": []}]},
        "b": {"not": {}, "minimum": 1},
        "c": {"format": "path"},
        "d": {"format": "date"},
    }
    schema = {"properties": properties, "items": {"$ref": "#/$defs/x"}}
    assert find_places(schema, reason) == place
