"""Instances held to a schema as a whole, and schemas that nothing can be held to."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from edge import schema_validation
from edge.errors import EdgeError
from edge.schema_relaxation import relaxations
from edge.schema_validation import SchemaCheck

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def check_of(schema: dict[str, Any]) -> SchemaCheck:
    return SchemaCheck(schema, next(relaxations(schema)))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid", "pointer"),
    [
        ({"items": {"uniqueItems": True}}, "[[1, 2]]", "[[1, 1]]", "#/items/uniqueItems"),
        ({"properties": {"a/b": {"not": {"const": 1}}}}, '{"a/b": 2}', '{"a/b": 1}', "#/properties/a~1b/not"),
        ({"oneOf": [{"minimum": 2}, {"maximum": 5}]}, "1", "3", "#/oneOf"),
        ({"contains": {"const": 1}}, "[1]", "[2]", "#/contains"),
        ({"propertyNames": {"maxLength": 1}}, '{"a": 1}', '{"ab": 1}', "#/propertyNames/maxLength"),
        ({"if": {"const": 1}, "then": {"minimum": 2}}, "2", "1", "#/then/minimum"),
        ({"items": {"not": {"pattern": "^a"}}}, '["b"]', '["ab"]', "#/items/not"),
        ({"propertyNames": {"pattern": "b$"}}, '{"ab": 1}', '{"a": 1}', "#/propertyNames/pattern"),
        ({"format": "email"}, '"a@b"', '"a"', "#/format"),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, '{"a": 1}', '{"b": 1}', "#/unevaluatedProperties"),
        ({"dependencies": {"a": ["b"]}}, "{}", '{"a": 1}', "#/dependencies"),
        ({"$schema": DRAFT_7, "dependentRequired": {"a": ["b"]}}, "{}", '{"a": 1}', "#/dependentRequired"),
        ({"items": [{"const": 1}], "uniqueItems": True}, "[1, 2]", "[2]", "#/items/0/const"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"uniqueItems": True}}}, "[1]", "[1, 1]", "#/uniqueItems"),
    ],
)
def test_keyword_that_is_violated_is_named_with_its_place(
    schema: dict[str, Any], valid: str, invalid: str, pointer: str
) -> None:
    check = check_of(schema)
    assert check.violations(valid) == []
    violation = check.violations(invalid)[0]
    assert violation.pointer == pointer
    assert violation.keyword in pointer


def test_a_violation_says_what_is_wrong_and_where_in_the_instance() -> None:
    violation = check_of({"properties": {"tags": {"uniqueItems": True}}}).violations('{"tags": [1, 1]}')[0]
    assert violation.message == "[1, 1] has non-unique elements at $.tags"


@pytest.mark.parametrize("text", ["", "{", "[1, NaN]", '{"a": 1} {', "[" * 10_000 + "]" * 10_000, "9" * 5000])
def test_text_that_is_no_json_is_no_instance(text: str) -> None:
    violation = check_of({"not": {"const": 1}}).violations(text)[0]
    assert violation.keyword == ""
    assert "the text is not JSON" in violation.message


def test_an_instance_too_deep_for_its_recursive_schema_is_not_valid() -> None:
    check = check_of({"items": {"$ref": "#"}, "uniqueItems": True})
    assert "cannot be checked" in check.violations("[" * 500 + "]" * 500)[0].message


def test_a_pattern_that_explodes_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_validation, "_MAX_PATTERN_SECONDS", 0.02)
    check = check_of({"not": {"pattern": "^(a|a)+$"}})
    assert check.violations('"b"') == []
    assert check.violations('"aa"')[0].keyword == "not"
    violation = check.violations(json.dumps("a" * 60 + "b"))[0]
    assert (violation.keyword, violation.message) == ("", "the instance cannot be checked: regex timed out")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$schema": 5, "not": {}}, r"has \$schema: 5"),
        ({"not": 5}, "The JSON Schema is none: at #/not, 5 is not of type 'object', 'boolean'"),
        ({"not": {"minLength": "x"}}, "at #/not/minLength, 'x' is not of type 'integer'"),
        ({"not": {"pattern": "[a"}}, "at #/not/pattern, '\\[a' is not a 'regex'"),
        (
            {"not": {"$ref": "https://example.com/s.json"}},
            "refers to 'https://example.com/s.json', .* nothing is fetched",
        ),
        ({"not": {"$ref": "s.json#/a"}}, "refers to 's.json#/a'"),
        ({"not": {"format": "date-time"}}, "format 'date-time' at #/not/format can neither be enforced nor checked"),
        ({"format": "uri-template"}, "format 'uri-template' at #/format can neither"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        check_of(schema)
    assert caught.value.hint


def test_a_reference_to_nothing_within_the_schema_is_an_error() -> None:
    with pytest.raises(EdgeError, match="refers to '/nowhere', which is not within it"):
        check_of({"not": {"$ref": "#/nowhere"}}).violations("1")


def test_a_reference_to_the_schemas_own_name_is_followed() -> None:
    name = "https://example.com/tree.json"
    check = check_of({"$id": name, "items": {"$ref": name}, "uniqueItems": True})
    assert check.violations("[[1], [2]]") == []
    assert check.violations("[[1, 1]]")[0].keyword == "uniqueItems"


def test_a_format_that_no_standard_knows_is_told() -> None:
    with pytest.warns(UserWarning, match="format 'path' at #/items/format is none of JSON Schema's"):
        check = check_of({"items": {"format": "path"}})
    assert check.violations('["anything"]') == []


def test_a_format_that_is_enforced_is_not_in_the_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check = check_of({"items": {"format": "date-time"}, "uniqueItems": True})
    moment = '"2024-02-29T12:00:00Z"'
    assert check.violations(f"[{moment}]") == []
    assert [each.keyword for each in check.violations(f"[{moment}, {moment}]")] == ["uniqueItems"]
