"""The JSON Schema box: where a schema is wrong while it is typed, and whether an answer matches it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from playwright.sync_api import Page, expect

from tests.edge.page.acting import answers, ask, ask_and_wait, module, open_settings
from tests.edge.page.fake_server import FakeServer, Wait

CITY = '{"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "maxLength": 10}}}'


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "is_unfinished"),
    [
        ('{"a": 1,\n "b" 2}', 2, 6, '"2" where a ":" should be', False),
        ('{"a": 1,}', 1, 9, '"}" where a property name in double quotes should be', False),
        ("[1 2]", 1, 4, '"2" where a "," or "]" should be', False),
        ('["é😀", x]', 1, 8, '"x" where a value should be', False),
        ("{'a': 1}", 1, 2, '"\'" where a property name in double quotes should be', False),
        ('{"a": tru}', 1, 7, '"t" where a value should be', False),
        ('"a\nb"', 1, 3, 'a line break where an escape or a closing " should be', False),
        (r'"a\q"', 1, 3, '"\\" where an escape such as \\n or \\u00e9 should be', False),
        ("1 2", 1, 3, '"2" after the end of the value', False),
        ("01", 1, 2, '"1" after the end of the value', False),
        ("", 1, 1, "the text ends where a value should be", True),
        ('{"a": [1,', 1, 10, "the text ends where a value should be", True),
        ('{"a": "b', 1, 9, 'the text ends where a closing " should be', True),
        ('{"a": tr', 1, 9, "the text ends where a value should be", True),
        ('{"a": -', 1, 8, "the text ends where a value should be", True),
        ('"\\u12', 1, 6, "the text ends where an escape such as \\n or \\u00e9 should be", True),
        ("[" * 600, 1, 502, "more than 500 levels of nesting", False),
    ],
)
def test_the_first_mistake_has_its_place(
    modules: Page, text: str, line: int, column: int, message: str, is_unfinished: bool
) -> None:
    found = module(modules, "json_text.js", "(m, text) => m.readJson(text)", text)
    assert found == {"message": message, "line": line, "column": column, "isUnfinished": is_unfinished}


def test_every_beginning_of_json_is_unfinished_and_not_wrong(modules: Page) -> None:
    text = json.dumps({"a": [1.5e-3, -2, True, None, 'é\n"\\'], "b": {"c": [], "d": {}}}, indent=1)
    call = (
        "(m, text) => Array.from(text, (_, at) => m.readJson(text.slice(0, at))).filter((read) => !read.isUnfinished)"
    )
    assert module(modules, "json_text.js", call, text) == []


SCHEMAS: list[Any] = [
    {"type": ["string", "null"], "minLength": 2, "maxLength": 3, "pattern": "^[ab]"},
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 5, "multipleOf": 2},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3, "uniqueItems": True},
    {"prefixItems": [{"type": "string"}], "items": {"type": "boolean"}, "contains": {"const": True}, "maxContains": 1},
    {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"enum": [1, "x", None, {"b": [1]}]}},
        "additionalProperties": False,
    },
    {
        "patternProperties": {"^a": {"type": "integer"}},
        "propertyNames": {"maxLength": 1},
        "minProperties": 1,
        "maxProperties": 2,
    },
    {"anyOf": [{"type": "string"}, {"minimum": 3}], "not": {"const": "ab"}},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}], "allOf": [{"type": ["integer", "number"]}]},
    {"if": {"type": "object"}, "then": {"required": ["b"]}, "else": {"type": "boolean"}},
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "array", "items": {"$ref": "#"}}}},
    {"dependentRequired": {"a": ["b"]}, "type": "object", "additionalProperties": {"type": "integer"}},
    True,
    False,
]
SCALARS = st.none() | st.booleans() | st.integers(-2, 8) | st.floats(-3, 9, width=16) | st.text("abc😀", max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)
JUDGE = """(m, schemas, values) => {
    const isValid = (schema, value) => m.validate(schema, value).errors.length === 0;
    return schemas.map((schema) => values.map((value) => isValid(schema, value)));
}"""


def test_values_are_judged_as_jsonschema_judges_them(modules: Page) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(VALUES, min_size=10, max_size=40))
    def judged(values: list[Any]) -> None:
        values = json.loads(json.dumps(values))
        expected = [[Draft202012Validator(schema).is_valid(value) for value in values] for schema in SCHEMAS]
        assert module(modules, "json_schema.js", JUDGE, SCHEMAS, values) == expected

    judged()


def test_what_is_not_looked_at_is_named(modules: Page) -> None:
    schema = {
        "format": "date",
        "unevaluatedProperties": False,
        "pattern": "(?<",
        "properties": {"a": {"$ref": "other.json"}},
    }
    call = "(m, schema, value) => m.validate(schema, value)"
    for value, unchecked in (
        ("x", ["format", "pattern", "unevaluatedProperties"]),
        ({"a": 1}, ["$ref", "format", "unevaluatedProperties"]),
    ):
        assert module(modules, "json_schema.js", call, schema, value) == {"errors": [], "unchecked": unchecked}
    malformed = module(modules, "json_schema.js", call, {"anyOf": 5}, 1)
    assert malformed["unchecked"] == ["a keyword whose value is of the wrong type"]
    endless = module(modules, "json_schema.js", call, {"$ref": "#"}, 1)
    assert endless["unchecked"] == ["nesting"]


def test_the_badge_follows_what_is_typed(page: Page) -> None:
    open_settings(page)
    state = page.locator("#schema-state")
    expect(state).to_have_text("No schema")
    page.get_by_label("JSON Schema").fill('{"type": "object",\n "required": [a]}')
    expect(state).to_have_text('Line 2, column 15: "a" where a value should be.')
    page.get_by_label("JSON Schema").fill("[1]")
    expect(state).to_contain_text("A schema is an object")
    page.get_by_label("JSON Schema").fill(CITY)
    expect(state).to_have_text("Valid JSON")
    expect(page.get_by_label("Hold answers to this schema")).to_be_checked()


def test_answers_are_held_to_the_schema_and_shown_to_match(page: Page, server: FakeServer) -> None:
    server.says('{"city": ', Wait(), '"*Rome*"}')
    open_settings(page)
    page.get_by_label("JSON Schema").fill(CITY)
    ask(page, "Where?")
    expect(page.locator(".message .badge")).to_have_text("Valid so far")
    server.go_on()
    expect(page.locator(".message .badge")).to_have_text("Matches the schema")
    expect(answers(page).locator("code")).to_have_text('{"city": "*Rome*"}')
    assert server.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": json.loads(CITY), "strict": True},
    }
    page.reload()
    expect(page.locator(".message .badge")).to_have_text("Matches the schema")


@pytest.mark.parametrize(
    ("answer", "badge", "reason"),
    [
        ('{"city": "Constantinople"}', "Does not match", "city has more than 10 characters"),
        ("[]", "Does not match", "the answer is array, not object"),
        ("{}", "Does not match", "the answer lacks the property city"),
        ('{"city": ', "Unfinished JSON", "Line 1, column 10: the text ends where a value should be."),
        ("Rome", "Not JSON", 'Line 1, column 1: "R" where a value should be.'),
    ],
)
def test_an_answer_that_does_not_match_says_why(
    page: Page, server: FakeServer, answer: str, badge: str, reason: str
) -> None:
    server.says(answer)
    open_settings(page)
    page.get_by_label("JSON Schema").fill(CITY)
    ask_and_wait(page, "Where?")
    expect(page.locator(".message .badge")).to_have_text(badge)
    expect(page.locator(".message .about")).to_contain_text(reason)


def test_a_schema_that_is_not_used_is_not_sent(page: Page, server: FakeServer) -> None:
    open_settings(page)
    page.get_by_label("JSON Schema").fill(CITY)
    page.get_by_label("Hold answers to this schema").uncheck()
    ask_and_wait(page, "Where?")
    assert "response_format" not in server.bodies[0]


def test_a_wrong_schema_keeps_a_question_from_being_asked(page: Page, server: FakeServer) -> None:
    open_settings(page)
    page.get_by_label("JSON Schema").fill("{")
    ask(page, "Where?")
    expect(page.get_by_label("JSON Schema")).to_be_focused()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Where?")
    assert server.bodies == []
