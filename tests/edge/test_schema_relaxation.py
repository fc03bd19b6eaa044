"""Schemas made weaker: what they admit grows, and what was left out is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.constraint import Constraint, ConstraintCompiler, relax
from edge.errors import EdgeError
from edge.schema_relaxation import relaxations
from tests.edge.toy_vocabulary import ByteVocabulary

NAMES = ["a", "ab", "b"]


@pytest.mark.parametrize(
    ("schema", "enforced", "unenforced"),
    [
        ({"type": "array", "uniqueItems": True}, {"type": "array"}, ["#/uniqueItems"]),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}, []),
        ({"properties": {"a/b": {"not": {}}}}, {"properties": {"a/b": {}}}, ["#/properties/a~1b/not"]),
        ({"properties": {"not": {"type": "null"}}}, {"properties": {"not": {"type": "null"}}}, []),
        ({"enum": [{"not": 1}]}, {"enum": [{"not": 1}]}, []),
        ({"allOf": [{"if": {}, "then": {}}, True]}, {"allOf": [{}, True]}, ["#/allOf/0/if", "#/allOf/0/then"]),
        ({"format": "path"}, {}, ["#/format"]),
        ({"format": "date"}, {"format": "date"}, []),
        ({"items": {"oneOf": [{"type": "null"}]}}, {"items": {"oneOf": [{"type": "null"}]}}, []),
        ({"minProperties": 2, "properties": {}}, {"minProperties": 2, "properties": {}}, []),
    ],
)
def test_only_what_is_never_enforced_is_left_out_at_first(
    schema: dict[str, Any], enforced: dict[str, Any], unenforced: list[str]
) -> None:
    first = next(relaxations(schema))
    assert first.schema == enforced
    assert list(first.unenforced) == unenforced


def test_one_of_becomes_any_of_beside_what_else_stands_there() -> None:
    alternatives = [{"minimum": 1}, {"maximum": 3}]
    plain, both = ({"oneOf": alternatives}, {"oneOf": alternatives, "anyOf": [{}]})
    assert list(relaxations(plain))[1].schema == {"anyOf": alternatives}
    assert list(relaxations(both))[1].schema == {"anyOf": [{}], "allOf": [{"anyOf": alternatives}]}
    assert list(relaxations(both))[1].unenforced == ("#/oneOf",)


def test_additional_properties_go_with_the_patterns_that_they_depend_on() -> None:
    schema = {"patternProperties": {"^a": {}}, "items": {"additionalProperties": False}, "additionalProperties": False}
    weakest = list(relaxations(schema))[-1]
    assert weakest.schema == {"items": {"additionalProperties": False}}
    assert weakest.unenforced == ("#/patternProperties", "#/additionalProperties")


def test_a_schema_as_deep_as_may_be_is_weakened() -> None:
    schema: dict[str, Any] = {"not": {}}
    for _ in range(480):
        schema = {"items": schema}
    assert next(relaxations(schema)).unenforced == ("#" + "/items" * 480 + "/not",)


instances = st.recursive(
    st.none() | st.booleans() | st.integers(0, 4) | st.sampled_from(["", "a", "ab", "1.2.3.4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from([True, {}, {"type": "string"}, {"type": "integer"}])
leaves = types | st.sampled_from(
    [{"minimum": 2}, {"maxLength": 1}, {"const": "a"}, {"pattern": "^a"}, {"format": "ipv4"}, {"uniqueItems": True}]
)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=2)
    keywords = {
        **dict.fromkeys(("oneOf", "anyOf", "allOf", "prefixItems"), few),
        **dict.fromkeys(("properties", "patternProperties", "dependentSchemas"), named),
        **dict.fromkeys(("not", "if", "then", "else", "items", "contains", "propertyNames"), inner),
        **dict.fromkeys(("additionalProperties", "unevaluatedProperties", "unevaluatedItems"), inner),
        "dependentRequired": st.just({"a": ["b"]}),
    }
    return st.fixed_dictionaries({}, optional=keywords)


schemas = st.recursive(leaves, combined, max_leaves=5).filter(lambda schema: isinstance(schema, dict))


@given(schema=schemas, instance=instances)
@settings(max_examples=300, deadline=None)
def test_what_a_schema_admits_every_relaxation_admits(schema: dict[str, Any], instance: object) -> None:
    if Draft202012Validator(schema).is_valid(instance):
        for relaxation in relaxations(schema):
            assert Draft202012Validator(relaxation.schema).is_valid(instance), relaxation


@given(schema=schemas, instance=instances)
@settings(max_examples=200, deadline=None)
def test_a_relaxation_that_leaves_nothing_out_is_the_schema_itself(schema: dict[str, Any], instance: object) -> None:
    first = next(relaxations(schema))
    if not first.unenforced:
        is_valid = Draft202012Validator(schema).is_valid(instance)
        assert Draft202012Validator(first.schema).is_valid(instance) is is_valid


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    return ConstraintCompiler(ByteVocabulary())


TAGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
SHAPE = {"oneOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "maximum": 5}]}
CARD = {
    "type": "object",
    "properties": {"card": {"type": "integer"}, "address": {"type": "string"}},
    "dependentRequired": {"card": ["address"]},
    "additionalProperties": False,
}
OVERLAP = {"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}}}
LOOK_AHEAD = {"type": "string", "pattern": "^a(?=b)"}
COUNTED = {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2, "maxProperties": 2}


@pytest.mark.parametrize(
    ("schema", "valid", "unenforced"),
    [
        (TAGS, ["a", "b"], "#/uniqueItems"),
        (SHAPE, 1, "#/oneOf"),
        (SHAPE, 9, "#/oneOf"),
        (CARD, {"card": 1, "address": "x"}, "#/dependentRequired"),
        (CARD, {}, "#/dependentRequired"),
        (OVERLAP, {"ab": 4, "c": "x"}, "#/patternProperties"),
        (LOOK_AHEAD, "abc", "#/pattern"),
        (COUNTED, {"a": 1, "b": 2}, "#/minProperties"),
        ({"type": "string", "format": "path"}, "/a", "#/format"),
        ({"type": "string", "not": {"const": "a"}}, "b", "#/not"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **CARD}, {"address": "x"}, "#/dependentRequired"),
    ],
)
def test_what_is_enforced_admits_valid_instances(
    compiler: ConstraintCompiler, schema: dict[str, Any], valid: object, unenforced: str
) -> None:
    relaxation = relax(Constraint.json_schema(schema))
    assert relaxation.unenforced[0] == unenforced
    matcher = compiler.compile(Constraint.json_schema(relaxation.schema))
    for token in json.dumps(valid).encode():
        matcher.accept(token)
    assert matcher.is_accepting


@pytest.mark.parametrize("schema", [{"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "object"}])
def test_a_schema_that_can_be_enforced_is_not_relaxed(schema: dict[str, Any]) -> None:
    relaxation = relax(Constraint.json_schema(schema))
    assert (relaxation.schema, relaxation.unenforced) == (schema, ())


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {}, "$ref": "https://example.com/s.json"}, "https://example.com/s.json"),
        ({"not": {}, "type": "text"}, r"Invalid type: text \(at #\)"),
        ({"not": {}, "properties": 5}, "properties must be an object"),
        ({"not": {}, "type": "integer", "minimum": 5, "maximum": 3}, "greater than maximum"),
        ({"not": {}, "uniqeItems": True}, "unknown keyword 'uniqeItems' at #"),
    ],
)
def test_a_schema_that_no_relaxation_helps_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        relax(Constraint.json_schema(schema))
    assert caught.value.hint
