"""Constraints enforced token by token, and the refusal of those that cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.constraint import Constraint, ConstraintCompiler, Matcher
from edge.errors import EdgeError
from edge.llama.model import Model
from edge.llama.vocab import Vocab
from edge.matcher import MAX_FORCED_TOKENS
from tests.edge.toy_vocabulary import ByteVocabulary

WORDS = [b'{"', b'": ', b'", "', b"ab", b"abc", b"name", b"true", b", "]
END, OTHER_END = 257, 258
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "zip": {"type": "string", "pattern": "^[0-9]{3}$"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocab() -> ByteVocabulary:
    return ByteVocabulary(WORDS)


@pytest.fixture(scope="module")
def compiler(vocab: ByteVocabulary) -> ConstraintCompiler:
    return ConstraintCompiler(vocab)


@pytest.fixture(scope="module")
def real_vocab(demo_gguf: Path) -> Iterator[Vocab]:
    with Model(demo_gguf, vocabulary_only=True) as model:
        yield model.vocab


@pytest.fixture(scope="module")
def real_compiler(real_vocab: Vocab) -> ConstraintCompiler:
    return ConstraintCompiler(real_vocab)


def matches(matcher: Matcher, tokens: list[int]) -> bool:
    """Whether the tokens are a whole match."""
    for token in tokens:
        if not matcher.is_allowed(token):
            return False
        matcher.accept(token)
    return matcher.is_accepting


def texts(vocab: ByteVocabulary | Vocab, tokens: list[int]) -> list[bytes]:
    pieces = vocab.pieces()
    return [pieces[token] for token in tokens]


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"name": "Ada", "age": 36}, True),
        ({"name": "Ada", "age": 36, "tags": ["a", "b"], "zip": "123"}, True),
        ({"name": "Ada", "age": 121}, False),
        ({"name": "Ada", "age": 1.5}, False),
        ({"name": "", "age": 1}, False),
        ({"name": "Grace Hopper", "age": 1}, False),
        ({"name": "Ada"}, False),
        ({"name": "Ada", "age": 1, "zip": "12"}, False),
        ({"name": "Ada", "age": 1, "tags": ["c"]}, False),
        ({"name": "Ada", "age": 1, "other": 1}, False),
        ({"age": 1, "name": "Ada"}, False),
    ],
)
def test_json_is_held_to_its_schema(
    compiler: ConstraintCompiler, vocab: ByteVocabulary, value: dict[str, object], valid: bool
) -> None:
    matcher = compiler.compile(Constraint.json_schema(PERSON))
    assert matches(matcher, vocab.tokenize(json.dumps(value))) is valid


written_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | written_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(written_text, inner, max_size=3),
    max_leaves=6,
)


@given(value=json_values)
@settings(max_examples=50, deadline=None)
def test_json_is_spaced_as_json_dumps_writes_it(
    compiler: ConstraintCompiler, vocab: ByteVocabulary, value: object
) -> None:
    anything = Constraint.json_schema({})
    text = json.dumps(value, ensure_ascii=False)
    assert matches(compiler.compile(anything), vocab.tokenize(text))
    if isinstance(value, list | dict) and len(value) > 1:
        compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert not matches(compiler.compile(anything), vocab.tokenize(compact))


def test_a_schema_may_ask_for_its_own_spacing(compiler: ConstraintCompiler, vocab: ByteVocabulary) -> None:
    compact = {"type": "array", "x-guidance": {"item_separator": ","}}
    assert matches(compiler.compile(Constraint.json_schema(compact)), vocab.tokenize("[1,2]"))


def test_schema_as_text_and_as_value_mean_the_same(compiler: ConstraintCompiler, vocab: ByteVocabulary) -> None:
    written = Constraint.json_schema(json.dumps(PERSON, indent=2))
    assert matches(compiler.compile(written), vocab.tokenize('{"name": "Ada", "age": 36}'))


@pytest.mark.parametrize(
    ("constraint", "match", "other"),
    [
        (Constraint.regex("[a-c]+!?"), "abc!", "abd"),
        (Constraint.regex("^ab$"), "ab", "xaby"),
        (Constraint.grammar('start: "ab" NUMBER\nNUMBER: /[0-9]+/'), "ab12", "ab"),
        (Constraint.grammar('root ::= "ab" number\nnumber ::= [0-9]+'), "ab12", "ab"),
        (Constraint.grammar('root ::= item ("," item)*\nitem ::= "a" | "(" root ")"'), "a,(a,a)", "a,(a"),
    ],
)
def test_text_is_held_to_its_grammar(
    compiler: ConstraintCompiler, vocab: ByteVocabulary, constraint: Constraint, match: str, other: str
) -> None:
    assert matches(compiler.compile(constraint), vocab.tokenize(match))
    assert not matches(compiler.compile(constraint), vocab.tokenize(other))


@pytest.mark.parametrize("text", ["yes", "yes, of course", "a.b|c\n-#"])
def test_a_choice_is_one_of_its_texts_as_it_stands(
    compiler: ConstraintCompiler, vocab: ByteVocabulary, text: str
) -> None:
    choice = Constraint.choice(["yes", "yes, of course", "a.b|c\n-#"])
    assert matches(compiler.compile(choice), vocab.tokenize(text))
    assert not matches(compiler.compile(choice), vocab.tokenize(text + "!"))
    assert not matches(compiler.compile(choice), vocab.tokenize(text[:-1]))


@pytest.mark.parametrize("options", [[], ["yes", ""]])
def test_a_choice_of_nothing_is_refused(options: list[str]) -> None:
    with pytest.raises(EdgeError, match="A choice needs options"):
        Constraint.choice(options)


def test_a_type_is_a_constraint(compiler: ConstraintCompiler, vocab: ByteVocabulary) -> None:
    constraint = Constraint.of(dict[str, Literal["ab", 3]], attempts=2)
    assert constraint.attempts == 2
    assert matches(compiler.compile(constraint), vocab.tokenize('{"x": "ab", "y": 3}'))
    assert not matches(compiler.compile(constraint), vocab.tokenize('{"x": "b"}'))


def test_a_regular_expression_that_explodes_ends_in_an_error(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("(.*a){30}(x|.{1,9000}){2,9000}"))
    with pytest.raises(EdgeError, match="too many expressions constructed") as caught:
        matches(matcher, [ord("a")] * 200)
    assert "shorter" in caught.value.hint


def test_tokens_that_must_follow_are_told_in_the_models_own_tokenization(
    compiler: ConstraintCompiler, vocab: ByteVocabulary
) -> None:
    matcher = compiler.compile(Constraint.json_schema(PERSON))
    forced = matcher.forced_tokens()
    assert texts(vocab, forced) == [b'{"', b"name", b'": ']  # the quote may become part of a longer token
    for token in forced:
        matcher.accept(token)
    assert matcher.forced_tokens() == []


def test_forced_tokens_know_nothing_of_the_space_that_starts_a_text() -> None:
    vocab = ByteVocabulary([b" name", b"name", b'{"', b'": '], space_prefix=True)
    matcher = ConstraintCompiler(vocab).compile(Constraint.json_schema(PERSON))
    assert texts(vocab, matcher.forced_tokens()) == [b'{"', b"name", b'": ']


def test_a_long_run_of_forced_tokens_is_told_in_parts(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("z{1000}"))
    parts = []
    while forced := matcher.forced_tokens():
        parts.append(len(forced))
        for token in forced:
            assert token == ord("z")
            matcher.accept(token)
    assert parts == [MAX_FORCED_TOKENS] * 3 + [1000 - 3 * MAX_FORCED_TOKENS]
    assert matcher.is_stopped


def test_the_reply_may_end_exactly_where_it_is_whole(compiler: ConstraintCompiler, vocab: ByteVocabulary) -> None:
    matcher = compiler.compile(Constraint.regex("a+b?"))
    for token, may_end, is_stopped in ((ord("a"), True, False), (ord("a"), True, False), (ord("b"), True, True)):
        matcher.accept(token)
        assert matcher.is_accepting is may_end
        assert matcher.is_stopped is is_stopped
        assert matcher.is_allowed(END) is matcher.is_allowed(OTHER_END) is may_end
    assert not matcher.is_allowed(ord("a"))
    matcher.accept(OTHER_END)
    assert matcher.is_accepting


def test_the_reply_may_not_end_before_it_is_whole(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("ab"))
    assert not matcher.is_accepting
    assert not matcher.is_allowed(END)
    with pytest.raises(EdgeError, match="cannot be followed"):
        matcher.accept(END)


def test_an_empty_reply_may_be_a_whole_one(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(Constraint.regex("a*"))
    assert matcher.is_accepting
    assert matcher.is_allowed(END)


def test_mask_and_single_questions_agree_on_every_token(compiler: ConstraintCompiler, vocab: ByteVocabulary) -> None:
    matcher = compiler.compile(Constraint.json_schema(PERSON))
    states = 0
    for step in [*vocab.tokenize('{"name": "Ada", "age": 36, "zip": "123"}'), END]:
        forced = matcher.forced_tokens()
        allowed = matcher.allowed_tokens()
        open_tokens = np.flatnonzero(allowed).tolist()
        if forced:  # a mask keeps to the model's own tokenization, single questions take any that spells the same
            assert open_tokens == forced[:1]
            assert matcher.is_allowed(forced[0])
        else:
            assert open_tokens == [token for token in range(len(allowed)) if matcher.is_allowed(token)]
            states += 1
        matcher.accept(step)
    assert states > 5


def test_control_tokens_other_than_ends_are_never_allowed(compiler: ConstraintCompiler) -> None:
    allowed = compiler.compile(Constraint.regex("(?s:.)*")).allowed_tokens()
    assert not allowed[256]
    assert allowed[[END, OTHER_END, ord("<")]].all()


def test_matchers_of_one_constraint_do_not_share_a_state(compiler: ConstraintCompiler) -> None:
    first, second = (compiler.compile(Constraint.regex("ab")) for _ in range(2))
    first.accept(ord("a"))
    assert first.is_allowed(ord("b"))
    assert not second.is_allowed(ord("b"))


def test_accepting_a_token_that_is_not_allowed_is_an_error(compiler: ConstraintCompiler) -> None:
    with pytest.raises(EdgeError, match='token "x" doesn\'t satisfy the grammar') as caught:
        compiler.compile(Constraint.regex("ab")).accept(ord("x"))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("schema", "message", "hint"),
    [
        ({"not": {"type": "string"}}, r'Unimplemented keys: \["not"\] \(at #\)', "Take these keywords out"),
        ({"items": {"uniqueItems": True}}, r'Unimplemented keys: \["uniqueItems"\] \(at #/items\)', "Take these"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, r"oneOf .*\(at #\)", "Use anyOf"),
        ({"properties": {"a": {"type": "string", "format": "path"}}}, r"format: path \(at #/properties/a\)", "ipv4"),
        ({"$ref": "https://example.com/schema.json"}, r"'https://example.com/schema.json'", "within the schema"),
        ({"items": {"$ref": "#/$defs/none"}}, r"Pointer '/\$defs/none' does not exist \(at #/items\)", "Correct"),
        ({"minimum": 5, "maximum": 3, "type": "integer"}, "minimum .5. is greater than maximum", "contradiction"),
        ({"type": "string", "pattern": "a(?=b)"}, r"look-around.*\(at #\)", "Rust"),
        ({"type": "text"}, r"Invalid type: text \(at #\)", "integer"),
        ({"not": {}, "x-guidance": {"lenient": True}}, "Unimplemented keys", "Take these keywords out"),
        ({"additonalProperties": False}, "unknown keyword 'additonalProperties'", "'additionalProperties'"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_reason_and_place(
    compiler: ConstraintCompiler, schema: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        compiler.compile(Constraint.json_schema(schema))
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            Constraint.regex("[a"),
            "regular expression cannot be enforced: regex parse error: .*unclosed character class",
        ),
        (Constraint.regex("(" * 20_000), "unclosed group"),
        (Constraint.choice([f"option number {number}" for number in range(30_000)]), "has 6[0-9]+ characters"),
        (Constraint.regex(r"(a)\1"), "backreferences are not supported"),
        (Constraint.regex(r"a\b"), "lookarounds not supported"),
        (Constraint.grammar("start: x"), 'grammar cannot be enforced: line 1, column 8: unknown name: "x"'),
        (Constraint.grammar('start: "a'), "line 1, column 10: lexer error"),
        (Constraint.grammar("hello"), "Expected token ':'"),
        (Constraint.grammar('root ::= "a"\n  "x" y'), "line 2, column 3: Expected name"),
        (Constraint.grammar("root ::= x"), "GBNF grammar cannot be read: line 1, column 10: Rule 'x' not found"),
        (Constraint.grammar('root ::= ("a"'), r"GBNF grammar cannot be read: line 1, column 14: Expected '\)'"),
        (Constraint.grammar("root ::= " + "(" * 900 + '"a"' + ")" * 900), "it is nested too deeply"),
        (Constraint.grammar("start: " + "(" * 900 + '"a"' + ")" * 900), "lark grammar too deeply nested"),
        (Constraint.grammar('root ::= "a"\nroot ::= "b"'), "line 2, column 1: there is a rule 'root' already"),
        (Constraint.grammar("start: " + '"a" ' * 200_000), "grammar has 800007 characters"),
        (Constraint.grammar('begin ::= "a"'), "No 'root' rule found"),
        (Constraint.grammar("start: start"), "nothing can come next"),
        (Constraint.grammar('start: %json {"not": {}}'), "Unimplemented keys"),
        (Constraint.grammar("start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(5000))), "5001 rules"),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_with_the_reason(
    compiler: ConstraintCompiler, constraint: Constraint, message: str
) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        compiler.compile(constraint)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.model
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.regex("(a{1000}){1000}"),
        Constraint.regex("((a{100}){100}){100}x"),
        Constraint.regex("a{1000000}"),
        Constraint.grammar('start: x{1000000}\nx: "a"'),
        Constraint.json_schema({"const": "x y" * 150_000}),
        Constraint.json_schema({"enum": [f"value {number}" for number in range(100_000)]}),
        Constraint.json_schema({"type": "string", "pattern": "^(a{1000}){1000}$"}),
        Constraint.json_schema({"type": "array", "minItems": 1_000_000, "items": {"const": "abc"}}),
        Constraint.json_schema({"type": "object", "properties": {f"p{number}": {} for number in range(2000)}}),
    ],
)
def test_a_constraint_that_explodes_ends_in_an_error(real_compiler: ConstraintCompiler, constraint: Constraint) -> None:
    with pytest.raises(EdgeError, match=r"too many|Too many|too big|items; max is|has [0-9]+ characters") as caught:
        follow(real_compiler.compile(constraint), 50)
    assert "<" not in caught.value.message
    assert caught.value.hint


def follow(matcher: Matcher, steps: int) -> None:
    """Writes what the matcher allows first."""
    for _ in range(steps):
        for token in matcher.forced_tokens() or np.flatnonzero(matcher.allowed_tokens())[:1]:
            matcher.accept(int(token))


@pytest.mark.model
@pytest.mark.parametrize(
    ("pattern", "whole", "wrong"),
    [
        ("(x+x+)+y", "x" * 50 + "y", "x" * 50 + "z"),
        ("(.*a){20}(.*b){20}", "a" * 20 + "b" * 20, "a" * 19 + "b" * 20),
        ("(a|b)*a(a|b){20}c", "ab" * 15 + "ac", "ab" * 15 + "c"),
        (r"(\p{L}\p{M}*){500}\w{2000}", "A" * 2500, "A" * 2499),
    ],
)
def test_a_pattern_that_would_explode_when_it_is_searched_for_is_followed(
    real_compiler: ConstraintCompiler, real_vocab: Vocab, pattern: str, whole: str, wrong: str
) -> None:
    constraint = Constraint.regex(pattern)
    assert matches(real_compiler.compile(constraint), real_vocab.tokenize(whole))
    assert not matches(real_compiler.compile(constraint), real_vocab.tokenize(wrong))


def test_several_threads_compile_a_constraint_once(vocab: ByteVocabulary) -> None:
    class Counting(ByteVocabulary):
        reads = 0

        def pieces(self) -> list[bytes]:
            self.reads += 1
            return super().pieces()

    counting = Counting(WORDS)
    compiler = ConstraintCompiler(counting)
    constraints = [Constraint.json_schema(PERSON), Constraint.regex("[a-c]+!?"), Constraint.regex("(")] * 8
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda constraint: outcome_of(compiler, constraint), constraints))
    assert counting.reads == 1
    assert outcomes[:3] * 8 == outcomes
    assert "unclosed group" in outcomes[2]


def outcome_of(compiler: ConstraintCompiler, constraint: Constraint) -> str:
    """What may begin a reply, or why none can."""
    try:
        return str(np.flatnonzero(compiler.compile(constraint).allowed_tokens()))
    except EdgeError as error:
        return str(error)


def test_a_long_reason_is_cut(compiler: ConstraintCompiler) -> None:
    with pytest.raises(EdgeError, match="regular expression") as caught:
        compiler.compile(Constraint.regex("[" * 5000))
    assert len(caught.value.message) < 400


def test_a_constraint_that_becomes_too_complex_ends_in_an_error_not_in_free_text(compiler: ConstraintCompiler) -> None:
    alternatives = " | ".join(f'"a" "{number}"' for number in range(2500))
    matcher = compiler.compile(Constraint.grammar(f'start: "b" late\nlate: {alternatives}'))
    with pytest.raises(EdgeError, match=r"cannot be followed: .*items; max is"):
        matcher.accept(ord("b"))
    with pytest.raises(EdgeError, match="cannot be followed"):
        matcher.allowed_tokens()
    with pytest.raises(EdgeError, match="cannot be followed"):
        matcher.forced_tokens()
    assert not matcher.is_allowed(ord("a"))
    assert not matcher.is_allowed(END)


DEEP = 10_000


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"items": ' * DEEP + "{}" + "}" * DEEP, "leads up to 10001 levels deep"),
        ('{"enum": [' + "[" * DEEP + "]" * DEEP + "]}", "levels deep"),
        ("[1]", "The JSON Schema is a JSON array"),
        ('{"type": 7}', "type must be a string or array of strings"),
        ('{"type": "string", "minLength": -1}', "Expected positive integer for 'minLength'"),
        ('{"required": "a"}', "Expected array for 'required'"),
        ('{"allOf": [{"$ref": "#"}]}', "nothing can come next"),
        ('{"$ref": "file:///etc/passwd"}', "Resource 'file:///etc/passwd' is not present"),
        ('{"a": 1, "a": 2}', "has the member 'a' twice"),
    ],
)
def test_a_schema_that_is_none_is_refused(compiler: ConstraintCompiler, schema: str, message: str) -> None:
    with pytest.raises(EdgeError, match=message) as caught:
        compiler.compile(Constraint("json_schema", schema))
    assert caught.value.hint


def test_text_that_is_no_json_is_refused_at_once() -> None:
    with pytest.raises(EdgeError, match="line 1, column 10"):
        Constraint.json_schema('{"type": object}')


def test_a_schema_that_json_cannot_write_is_refused() -> None:
    with pytest.raises(EdgeError, match="cannot be written as JSON"):
        Constraint.json_schema({"maximum": float("inf")})


def test_a_vocabulary_without_end_takes_no_constraint(vocab: ByteVocabulary) -> None:
    class Endless(ByteVocabulary):
        def __init__(self) -> None:
            super().__init__()
            self.end_tokens = frozenset()

    with pytest.raises(EdgeError, match="no token that ends a reply"):
        ConstraintCompiler(Endless()).prepare()


@pytest.mark.model
def test_a_real_vocabulary_writes_json_with_its_own_tokens(real_vocab: Vocab) -> None:
    compiler = ConstraintCompiler(real_vocab)
    matcher = compiler.compile(Constraint.json_schema(PERSON))
    value = {"name": "Zoë", "age": 36, "tags": ["a", "b"], "zip": "123"}
    for token in real_vocab.tokenize(json.dumps(value, ensure_ascii=False)):
        forced = matcher.forced_tokens()
        assert not forced or token == forced[0]
        assert matcher.is_allowed(token)
        matcher.accept(token)
    assert matcher.is_stopped
    assert all(matcher.is_allowed(token) for token in real_vocab.end_tokens)


@pytest.mark.model
def test_a_real_vocabulary_keeps_control_tokens_out_of_any_text(real_vocab: Vocab) -> None:
    allowed = ConstraintCompiler(real_vocab).compile(Constraint.regex("(?s:.)*")).allowed_tokens()
    control = set(real_vocab.special_tokens.values()) - real_vocab.end_tokens
    assert len(allowed) == real_vocab.size
    assert not allowed[sorted(control)].any()
    assert allowed[sorted(real_vocab.end_tokens)].all()
