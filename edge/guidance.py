"""Constraints and vocabularies in the form in which llguidance reads them, and its refusals in a person's words.

Whatever a grammar holds, reading it ends in bounded time and memory: in a matcher, or in an EdgeError with the reason.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol

from edge.closing_tokens import ClosingTokens
from edge.errors import EdgeError
from edge.matcher import MatchedVocabulary, first_lines
from edge.schema_check import Schema, find_places, parse_schema, refuse_ignored_keywords, subschemas

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

Kind = Literal["json_schema", "regex", "grammar"]

_MAX_CHARACTERS = {"json_schema": 500_000, "regex": 500_000, "grammar": 150_000}  # a second or two at most
_MAX_LEXER_FUEL = 300_000  # a third of a second; the largest published schemas need a fraction of it
_MAX_GRAMMAR_NESTING = 1000  # rules and groups; the compiler follows them on the stack, and overflows at about 3,000
# json.dumps writes these by default, so models have read them most: JSON with other white space, or none, is less
# likely to them, and free white space lets small models write blanks without end
_JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_JSON_STRICTNESS = {"lenient": False, "coerce_one_of": False}
# tokens that fit as a whole into short and longer JSON strings get precomputed masks; more of them would double the
# time to read a vocabulary for masks that are no faster
_PRECOMPUTED_MASKS = [r'[^"\\\x00-\x1F\x7F]{1,10}', r'[^"\\\x00-\x1F\x7F]{1,30}']
_SPECIAL_MARK = b"\xff"  # llguidance's mark for a token that no text spells
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)+)"')
_WORD = re.compile(r"(?<![\w\\])\w+")
_MARK = re.compile(r"\\[^\w\s]|[^\w\s\\()\[\]{}*+?|^$.\"]")  # punctuation that stands for itself
_MARKS_OF_FORMATS = {"email": "@", "uri": ":", "date-time": "TZ", "time": "Z", "duration": "PTS", "ipv6": ":"}
_EMBEDDED_SCHEMA = re.compile(r"%json\s*")
_JSON_DECODER = json.JSONDecoder()
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_MAX_LITERALS = 64
_NAMES = {"json_schema": "JSON Schema", "regex": "regular expression", "grammar": "grammar"}
_HINTS = {
    "Resource": "Only references within the schema can be followed, such as #/$defs/name.",
    "Invalid type": "Types: string, number, integer, boolean, null, array, object.",
    "oneOf": "Use anyOf where no value fits two of the alternatives.",
    "format": "Known formats: date-time, date, time, duration, email, hostname, ipv4, ipv6, uuid, uri.",
    "Unimplemented": "Take these keywords out, or say the same with others, and check the reply yourself.",
    "Unsatisfiable": "No value can satisfy it: correct the contradiction.",
    "regex": "It has Rust's syntax, which knows neither look-around nor back-references.",
}


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary; `edge.llama.vocab.Vocab` is one."""

    @property
    def bos_token(self) -> int | None: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def end_tokens(self) -> frozenset[int]: ...
    def pieces(self) -> list[bytes]: ...
    def text(self, token: int) -> str: ...
    def tokenize(self, text: str, *, parse_special: bool = ..., starts_text: bool = ...) -> list[int]: ...


class _GuidanceTokens:
    """The vocabulary in the form in which llguidance reads it."""

    is_tokenizer_wrapper = True

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        special = {**vocab.special_tokens, **{vocab.text(token): token for token in vocab.end_tokens}}
        self.tokens = vocab.pieces()
        for text, token in special.items():
            self.tokens[token] = _SPECIAL_MARK + text.encode()
        self.special_token_ids = sorted(special.values())
        self.eos_token_id = min(vocab.end_tokens)
        self.bos_token_id = vocab.bos_token
        # SentencePiece puts a space in front of a text, which is not there in the middle of a reply; a control
        # character is a byte token of its own that takes the space, and both are left out
        starts_with_space = b"".join(self.tokens[token] for token in vocab.tokenize("a")).startswith(b" ")
        self._lead = "\x02" if starts_with_space else ""
        self._lead_length = len(vocab.tokenize(self._lead))

    def __call__(self, text: str) -> list[int]:
        return self._vocab.tokenize(self._lead + text)[self._lead_length :]


def read_vocabulary(vocab: Vocabulary) -> MatchedVocabulary:
    """What matchers need of a model's vocabulary, in a second for 262k tokens. EdgeError if no token ends a reply."""
    from llguidance import LLTokenizer

    if not vocab.end_tokens:
        raise EdgeError("The vocabulary has no token that ends a reply.", hint="Generate without a constraint.")
    tokens = _GuidanceTokens(vocab)
    tokenizer = LLTokenizer(tokens, eos_token=sorted(vocab.end_tokens), slices=_PRECOMPUTED_MASKS)
    return MatchedVocabulary(tokenizer, vocab.end_tokens, ClosingTokens.of(tokens.tokens))


def compile_grammar(kind: Kind, text: str, vocabulary: MatchedVocabulary) -> LLMatcher:
    """EdgeError with the reason where it cannot be enforced."""
    from llguidance import LLMatcher

    if len(text) > _MAX_CHARACTERS[kind]:
        raise EdgeError(
            f"The {_NAMES[kind]} has {len(text)} characters.", hint=f"At most {_MAX_CHARACTERS[kind]} can be enforced."
        )
    matcher = LLMatcher(vocabulary.tokenizer, _grammar(kind, text), log_level=0, limits=_limits())
    problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
    if problems:
        raise refusal(kind, text, problems[0])
    return matcher


def problem_of(schema: Schema) -> str:
    """Why a JSON Schema cannot be enforced; empty if it can."""
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), _JSON_SPACING, _JSON_STRICTNESS)
    except ValueError as error:
        return str(error)
    try:
        _, problems = LLMatcher.validate_grammar_with_warnings(grammar, limits=_limits())
    except BaseException as error:  # a panic of the native code is no Exception, and ends whoever lets it through
        if type(error).__name__ != "PanicException":
            raise
        return "a keyword has a value of a type that it cannot have"
    return str(problems[0]) if problems else ""


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(initial_lexer_fuel=_MAX_LEXER_FUEL, verbose_errors=False)


def _grammar(kind: Kind, text: str) -> str:
    from llguidance import LLMatcher

    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(text))
    if kind == "grammar":
        return str(LLMatcher.grammar_from_lark(_lark(text)))
    refuse_ignored_keywords(parse_schema(text))
    try:
        return str(LLMatcher.grammar_from_json_schema(text, _JSON_SPACING, _JSON_STRICTNESS))
    except ValueError as error:
        raise refusal(kind, text, str(error)) from error


def literals_of(kind: Kind, text: str, vocabulary: MatchedVocabulary) -> tuple[int, ...]:
    """The first tokens of texts that stand in a constraint as they will stand in the reply, and cannot be guessed."""
    if kind == "json_schema":
        nodes = [node for _, node in subschemas(parse_schema(text), "#")]
        found = _MARK.findall(" ".join(str(node["pattern"]) for node in nodes if "pattern" in node))
        found += [mark for node in nodes for mark in _MARKS_OF_FORMATS.get(str(node.get("format")), "")]
    else:
        found = _QUOTED.findall(text) + _WORD.findall(text) + _MARK.findall(text)
    literals = dict.fromkeys(_ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), each) for each in found)
    tokenize = vocabulary.tokenizer.greedy_tokenize
    return tuple(dict.fromkeys(tokenize(literal)[0] for literal in islice(filter(None, literals), _MAX_LITERALS)))


def _lark(text: str) -> str:
    """The grammar in Lark's syntax. GBNF writes rules with `::=`, Lark with a colon."""
    nesting = _nesting(text)
    if nesting > _MAX_GRAMMAR_NESTING:
        raise EdgeError(
            f"The grammar has {nesting} rules and groups.", hint=f"At most {_MAX_GRAMMAR_NESTING} can be followed."
        )
    if not re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE):
        return text
    from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

    _refuse_repeated_rules(text)
    try:
        return str(gbnf_to_lark(text))
    except GbnfToLarkError as error:
        place = _line_and_column(text, error.pos.pos)
        reason = f"{place}: {str(error).partition(' at line ')[0]}"
    except RecursionError:
        reason = "it is nested too deeply"
    except Exception as error:  # the converter raises plain Exceptions for what it finds after reading
        unknown = re.fullmatch("Rule '(.+)' not found", str(error))
        used = unknown and re.search(rf"(?<![\w-]){re.escape(unknown[1])}(?![\w-])", text)
        reason = f"{_line_and_column(text, used.start())}: {error}" if used else str(error)
    raise EdgeError(f"The GBNF grammar cannot be read: {reason}.", hint="Correct it there.")


def _nesting(text: str) -> int:
    """Rules and groups of a grammar. JSON Schemas in it have their own limit, to which they are held here."""
    outside, position = [], 0
    for embedded in _EMBEDDED_SCHEMA.finditer(text):
        if embedded.start() < position:
            continue
        try:
            _, end = _JSON_DECODER.raw_decode(text, embedded.end())
        except (ValueError, RecursionError):  # the compiler says what is wrong with it
            continue
        parse_schema(text[embedded.end() : end])  # an object: nothing that is one could be rules as well
        outside.append(text[position : embedded.start()])
        position = end
    return sum(part.count(mark) for part in [*outside, text[position:]] for mark in "([:")


def _refuse_repeated_rules(text: str) -> None:
    names = set()
    for rule in re.finditer(r"^[ \t]*([\w-]+)[ \t]*::=", text, re.MULTILINE):
        if rule[1] in names:
            raise EdgeError(
                f"The GBNF grammar cannot be read: {_line_and_column(text, rule.start(1))}: "
                f"there is a rule {rule[1]!r} already.",
                hint="Write the alternatives into one rule, with | between them.",
            )
        names.add(rule[1])


def _line_and_column(text: str, position: int) -> str:
    before = text[:position]
    return f"line {before.count(chr(10)) + 1}, column {position - before.rfind(chr(10))}"


def refusal(kind: Kind, text: str, problem: str) -> EdgeError:
    """What a person is told of llguidance's problem with a constraint."""
    reason = first_lines(problem)
    place = find_places(parse_schema(text), reason) if kind == "json_schema" else ""
    hint = next((hint for word, hint in _HINTS.items() if word in reason), "Correct it, or ask for less.")
    return EdgeError(f"The {_NAMES[kind]} cannot be enforced: {reason}{place}.", hint=hint)
