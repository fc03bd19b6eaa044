"""Replies that come near their token limit, and end as whole matches within it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.constraint import Constraint, ConstraintCompiler, Matcher
from edge.ending import Ending, find_ending
from edge.errors import EdgeError
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from tests.edge.toy_vocabulary import ByteVocabulary

WORDS = [b'{"', b'": ', b'", "', b'"}', b'"]', b'""', b"]}", b"}}", b"true", b", ", b"abcd", b'"]}']
FAR_TOKENS = 5000
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 10, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["alpha", "beta"]}, "minItems": 2},
        "zip": {"type": "string", "pattern": "^[0-9]{3}-[A-Z]{2}$"},
        "note": {"type": "string", "minLength": 30},
        "more": {"type": "object", "properties": {"id": {"type": "number"}, "ok": {"type": "boolean"}}},
    },
    "required": ["name", "age", "tags", "zip", "note"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"items": {"$ref": "#/$defs/tree"}, "type": "array"},
            },
            "required": ["value", "children"],
        }
    },
}
FORMATS = {
    "type": "object",
    "properties": {name: {"type": "string", "format": name} for name in ("uuid", "date", "email", "ipv4", "date-time")},
    "required": ["uuid", "date", "email", "ipv4", "date-time"],
}
TEXTS = [
    Constraint.regex("[a-z]{5,}x"),
    Constraint.regex(".*END"),
    Constraint.regex("(ab)+cd"),
    Constraint.choice(["a long option of many words", "another one", "short"]),
    Constraint.grammar('start: sum\nsum: term (("+"|"-") term)*\nterm: NUM | "(" sum ")"\nNUM: /[0-9]+/'),
    Constraint.grammar('root ::= "SELECT " names " FROM " name ";"\nnames ::= name (", " name)*\nname ::= [a-z]+'),
    Constraint.grammar('root ::= line+ "done"\nline ::= "- " [a-z ]+ "\\n"'),
]


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    return ConstraintCompiler(ByteVocabulary(WORDS))


@pytest.fixture(scope="module")
def real_vocab(demo_gguf: Path) -> Iterator[Vocab]:
    with Model(demo_gguf, vocabulary_only=True) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def real_compiler(real_vocab: Vocab) -> ConstraintCompiler:
    return ConstraintCompiler(real_vocab)


def accept_forced(matcher: Matcher) -> list[int]:
    """As the loop does it: all that is forced belongs to the reply."""
    taken: list[int] = []
    while forced := matcher.forced_tokens():
        for token in forced:
            matcher.accept(token)
        taken += forced
    return taken


def write(matcher: Matcher, random: Random, extra_tokens: int) -> tuple[list[int], int]:
    """A reply of random allowed tokens, and the limit it had: the shortest ending at its start, and so many tokens."""
    reply = accept_forced(matcher)
    shortest = find_ending(matcher, FAR_TOKENS)
    assert shortest is not None
    limit = len(reply) + len(shortest) + extra_tokens
    ending = Ending(matcher)
    while len(reply) < limit and not matcher.is_stopped:
        allowed = np.flatnonzero(matcher.allowed_tokens())
        token = int(random.choice(allowed))
        instead = ending.closing_instead_of(token, limit - len(reply))
        if instead is not None:
            for token in instead:
                matcher.accept(token)
            return reply + instead, limit
        matcher.accept(token)
        if token in matcher.vocabulary.end_tokens:
            break
        reply += [token, *accept_forced(matcher)]
    return reply, limit


def text_of(vocab: Vocab | ByteVocabulary, tokens: list[int]) -> bytes:
    pieces = vocab.pieces()
    return b"".join(pieces[token] for token in tokens)


names = st.sampled_from(["a", "bc", "name of a thing"])
values = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 7},
        {"type": "string", "pattern": "^[a-z]+@[a-z]+$"},
        {"type": "integer", "minimum": 100},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": ["red", "a very long colour", 3]},
        {"const": None},
        {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 2}]},
    ]
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)
    )
    objects = st.builds(
        lambda properties, some: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties)[: some % (len(properties) + 1)],
            "additionalProperties": False,
        },
        st.dictionaries(names, inner, min_size=1, max_size=3),
        st.integers(0, 3),
    )
    return arrays | objects


schemas = st.recursive(values, containers, max_leaves=5)
extras = st.sampled_from([0, 1, 2, 3, 5, 8, 13, 40, 150])


@given(schema=schemas, seed=st.integers(0, 9999), extra_tokens=extras)
@settings(max_examples=60, deadline=None)
def test_a_reply_is_a_valid_instance_within_its_limit(
    compiler: ConstraintCompiler, schema: dict[str, Any], seed: int, extra_tokens: int
) -> None:
    matcher = compiler.compile(Constraint.json_schema(schema))
    reply, limit = write(matcher, Random(seed), extra_tokens)
    assert len(reply) <= limit
    assert matcher.is_accepting
    Draft202012Validator(schema).validate(json.loads(text_of(ByteVocabulary(WORDS), reply)))


@pytest.mark.model
@given(schema=schemas | st.sampled_from([RECORD, TREE, FORMATS, {}]), seed=st.integers(0, 9999), extra_tokens=extras)
@settings(max_examples=40, deadline=None)
def test_a_real_vocabulary_ends_its_replies_in_time(
    real_compiler: ConstraintCompiler, real_vocab: Vocab, schema: dict[str, Any], seed: int, extra_tokens: int
) -> None:
    matcher = real_compiler.compile(Constraint.json_schema(schema))
    reply, limit = write(matcher, Random(seed), extra_tokens)
    assert len(reply) <= limit
    assert matcher.is_accepting
    Draft202012Validator(schema).validate(json.loads(text_of(real_vocab, reply)))


@pytest.mark.model
@pytest.mark.parametrize("constraint", TEXTS, ids=[text.text[:12] for text in TEXTS])
@pytest.mark.parametrize("extra_tokens", [0, 1, 4, 30])
def test_text_of_a_grammar_ends_in_time(
    real_compiler: ConstraintCompiler, constraint: Constraint, extra_tokens: int
) -> None:
    for seed in range(4):
        matcher = real_compiler.compile(constraint)
        reply, limit = write(matcher, Random(seed), extra_tokens)
        assert len(reply) <= limit
        assert matcher.is_accepting


@pytest.mark.model
@pytest.mark.parametrize(
    ("schema", "ending"),
    [
        (RECORD, None),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, b'[""]'),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, b'{"a": false}'),
        (TREE, None),
    ],
)
def test_an_ending_is_short(
    real_compiler: ConstraintCompiler, real_vocab: Vocab, schema: dict[str, Any], ending: bytes | None
) -> None:
    matcher = real_compiler.compile(Constraint.json_schema(schema))
    forced = accept_forced(matcher)
    found = find_ending(matcher, FAR_TOKENS)
    assert found is not None
    whole = forced + found
    assert ending is None or text_of(real_vocab, whole) == ending
    assert len(whole) <= 45


def test_the_end_is_near_only_when_it_is(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.json_schema({"type": "string"}))
    ending = Ending(matcher)
    matcher.accept(ord('"'))
    assert ending.closing_instead_of(ord("a"), 3) is None
    matcher.accept(ord("a"))
    assert ending.closing_instead_of(ord("b"), 2) is None
    matcher.accept(ord("b"))
    assert ending.closing_instead_of(ord("c"), 1) == [ord('"')]


def test_a_token_that_opens_more_than_can_be_closed_is_not_taken(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.json_schema({"type": "array", "items": {"type": "string", "minLength": 20}}))
    matcher.accept(ord("["))
    assert Ending(matcher).closing_instead_of(ord('"'), 4) == [ord("]")]


def test_without_an_ending_that_fits_the_reply_goes_on_to_be_cut(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("(a|b){40}"))
    ending = Ending(matcher)
    for remaining in range(10, 0, -1):
        assert ending.closing_instead_of(ord("a"), remaining) is None
        matcher.accept(ord("a"))
    assert not matcher.is_accepting


def test_a_token_that_ends_the_reply_is_always_taken(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("a*"))
    assert Ending(matcher).closing_instead_of(257, 1) is None


def test_a_matcher_is_where_it_was_after_a_search(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.json_schema(RECORD))
    before = matcher.allowed_tokens()
    assert find_ending(matcher, FAR_TOKENS)
    assert (matcher.allowed_tokens() == before).all()


def test_a_constraint_that_cannot_be_followed_is_not_hidden_by_an_ending(compiler: ConstraintCompiler) -> None:
    alternatives = " | ".join(f'"a" "{number}"' for number in range(2500))
    matcher = compiler.compile(Constraint.grammar(f'start: "b" late\nlate: {alternatives}'))
    assert Ending(matcher).closing_instead_of(ord("b"), 100) is None
    with pytest.raises(EdgeError, match="cannot be followed"):
        matcher.accept(ord("b"))
