"""Constraints on what a model may write: JSON Schema, regular expression or grammar, enforced token by token.

llguidance follows the text written so far and says which tokens may come next and which must. A constraint that cannot
be enforced is refused with the reason. Knows nothing of sampling, contexts or threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import EdgeError
from edge.schema_check import Schema, find_places, parse_schema, refuse_ignored_keywords
from edge.schema_of import schema_of
from edge.schema_relaxation import Relaxation, relaxations

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

DEFAULT_ATTEMPTS = 4
_MAX_COMPILED = 64
_MAX_GRAMMAR_NESTING = 1000  # rules and groups; the compiler follows them on the stack, and overflows at about 3,000
# json.dumps writes these by default, so models have read them most: JSON with other white space, or none, is less
# likely to them, and free white space lets small models write blanks without end
_JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_JSON_STRICTNESS = {"lenient": False, "coerce_one_of": False}
# tokens that fit as a whole into short and longer JSON strings get precomputed masks; more of them would double the
# time to read a vocabulary for masks that are no faster
_PRECOMPUTED_MASKS = [r'[^"\\\x00-\x1F\x7F]{1,10}', r'[^"\\\x00-\x1F\x7F]{1,30}']
_MAX_REASON_CHARACTERS = 300
_SPECIAL_MARK = b"\xff"  # llguidance's mark for a token that no text spells
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


@dataclass(frozen=True)
class Constraint:
    """What a reply must match as a whole. A plain value: whether it can be enforced shows when it is compiled."""

    kind: Literal["json_schema", "regex", "grammar"]
    text: str
    attempts: int = DEFAULT_ATTEMPTS
    """How often a reply is sampled at most until it is valid, where a JSON Schema says more than can be enforced."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise EdgeError(f"attempts is {self.attempts}.", hint="Allow at least 1 attempt.")

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any], *, attempts: int = DEFAULT_ATTEMPTS) -> Constraint:
        """From the text of a schema or from the schema itself; EdgeError if the text is not valid JSON.

        Replies hold the properties in the order of the schema, with ", " and ": " between them.
        """
        if isinstance(schema, str):
            parse_schema(schema)
            return cls("json_schema", schema, attempts)
        try:
            return cls("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False), attempts)
        except (TypeError, ValueError, RecursionError) as error:
            raise EdgeError(f"The JSON Schema cannot be written as JSON: {error}", hint="Use plain values.") from error

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """From a regular expression in the syntax of Rust's regex crate."""
        return cls("regex", pattern)

    @classmethod
    def grammar(cls, text: str) -> Constraint:
        """From a grammar: GBNF (`root ::= ...`) or llguidance's Lark (`start: ...`)."""
        return cls("grammar", text)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Constraint:
        """The reply is one of these texts, as it stands. EdgeError if there are none."""
        if not options or not all(options):
            raise EdgeError("A choice needs options, and none of them empty.", hint='Give texts, such as "yes", "no".')
        return cls("regex", "|".join(map(re.escape, options)))

    @classmethod
    def of(cls, kind: Any, *, attempts: int = DEFAULT_ATTEMPTS) -> Constraint:
        """JSON for a type: a dataclass, Literal, Enum, Pydantic model or anything made of them.

        EdgeError with the type that JSON has no form for.
        """
        return cls.json_schema(schema_of(kind), attempts=attempts)


@lru_cache(maxsize=_MAX_COMPILED)
def relax(constraint: Constraint) -> Relaxation:
    """As much of a JSON Schema as can be enforced token by token; EdgeError with the reason if that is nothing."""
    schema = parse_schema(constraint.text)
    refuse_ignored_keywords(schema)
    problem = ""
    for relaxation in relaxations(schema):
        problem = _problem(relaxation.schema)
        if not problem:
            return relaxation
        if "Unsatisfiable" in problem:
            break
    raise _refusal(constraint, problem)


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


class ConstraintCompiler:
    """Compiles constraints for the vocabulary of one model. Reading it takes longest: make one compiler per model."""

    def __init__(self, vocab: Vocabulary) -> None:
        from llguidance import LLTokenizer  # not needed, and not paid for, by replies without constraint

        if not vocab.end_tokens:
            raise EdgeError("The vocabulary has no token that ends a reply.", hint="Generate without a constraint.")
        self._end_tokens = vocab.end_tokens
        tokens = _GuidanceTokens(vocab)
        self._tokenizer: LLTokenizer = LLTokenizer(
            tokens, eos_token=sorted(vocab.end_tokens), slices=_PRECOMPUTED_MASKS
        )
        self._compiled = lru_cache(maxsize=_MAX_COMPILED)(self._compile)

    def compile(self, constraint: Constraint) -> Matcher:
        """A matcher at the start of a reply; EdgeError with the reason where the constraint cannot be enforced."""
        return Matcher(self._compiled(constraint).deep_copy(), self._end_tokens, self._tokenizer.vocab_size)

    def _compile(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, _guidance_grammar(constraint), log_level=0)
        problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if problems:
            raise _refusal(constraint, problems[0])
        Matcher(matcher, self._end_tokens, self._tokenizer.vocab_size).allowed_tokens()  # refuses what has no start
        return matcher


class Matcher:
    """Follows one reply. Sample first: `is_allowed` costs microseconds, a mask many more."""

    def __init__(self, matcher: LLMatcher, end_tokens: frozenset[int], vocabulary_size: int) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens
        self._vocabulary_size = vocabulary_size
        self._mask = np.zeros((vocabulary_size + 31) // 32, dtype=np.uint32)

    @property
    def is_accepting(self) -> bool:
        """Whether what was written is a whole match, so that the reply may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def is_allowed(self, token: int) -> bool:
        if token in self._end_tokens:
            return self.is_accepting
        return bool(self._matcher.validate_tokens([token]))

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """Which tokens may come next, by id; EdgeError if none can. Shape: [vocabulary]."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=self._vocabulary_size)
        return bits.view(np.bool_)

    def mask_logits(self, logits: NDArray[np.float32]) -> None:
        """Sets the logits of all tokens that may not come next to -inf, in place. Shape: [vocabulary]."""
        np.copyto(logits, -np.inf, where=~self.allowed_tokens())

    def accept(self, token: int) -> None:
        """Takes the next token of the reply; EdgeError if it is not allowed, after which the matcher is of no use."""
        if not self._matcher.consume_token(token):
            self._check()
            raise EdgeError(f"Token {token} breaks the constraint.", hint="Ask is_allowed first.")

    def forced_tokens(self) -> list[int]:
        """The tokens that must come next, in the model's own tokenization; they still have to be accepted."""
        forced = self._matcher.compute_ff_tokens()
        self._check()
        return forced[: self._matcher.validate_tokens(forced)] if forced else []

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _first_lines(self._matcher.get_error())
            dead_end = reason.startswith("NoExtension")
            raise EdgeError(
                f"The constraint cannot be followed: {'nothing can come next' if dead_end else reason}.",
                hint="Correct the rule that has no end." if dead_end else "Make it less ambiguous, or shorter.",
            )


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


def _guidance_grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    if constraint.kind == "regex":
        return str(LLMatcher.grammar_from_regex(constraint.text))
    if constraint.kind == "grammar":
        return str(LLMatcher.grammar_from_lark(_lark(constraint.text)))
    refuse_ignored_keywords(parse_schema(constraint.text))
    try:
        return str(LLMatcher.grammar_from_json_schema(constraint.text, _JSON_SPACING, _JSON_STRICTNESS))
    except ValueError as error:
        raise _refusal(constraint, str(error)) from error


def _problem(schema: Schema) -> str:
    """Why the schema cannot be enforced; empty if it can."""
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), _JSON_SPACING, _JSON_STRICTNESS)
    except ValueError as error:
        return str(error)
    _, problems = LLMatcher.validate_grammar_with_warnings(grammar)
    return str(problems[0]) if problems else ""


def _lark(text: str) -> str:
    """The grammar in Lark's syntax. GBNF writes rules with `::=`, Lark with a colon."""
    nesting = sum(map(text.count, "([:"))
    if nesting > _MAX_GRAMMAR_NESTING:
        raise EdgeError(
            f"The grammar has {nesting} rules and groups.", hint=f"At most {_MAX_GRAMMAR_NESTING} can be followed."
        )
    if not re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE):
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the converter raises plain Exceptions
        raise EdgeError(f"The GBNF grammar cannot be read: {error}.", hint="Correct it there.") from error


def _refusal(constraint: Constraint, problem: str) -> EdgeError:
    reason = _first_lines(problem)
    place = find_places(parse_schema(constraint.text), reason) if constraint.kind == "json_schema" else ""
    hint = next((hint for word, hint in _HINTS.items() if word in reason), "Correct it, or ask for less.")
    return EdgeError(f"The {_NAMES[constraint.kind]} cannot be enforced: {reason}{place}.", hint=hint)


def _first_lines(problem: str) -> str:
    """llguidance's message in one line, without the excerpts and the state that it prints behind it."""
    message = problem.split("\n<state>")[0].split("(in regex): ")[-1]
    lines = (line.strip() for line in message.splitlines())
    kept = [line for line in lines if line and not re.match(r"\d+ \||\^+$", line)]
    reason = re.sub(r"^(at )?(\d+)\((\d+)\): ", r"line \2, column \3: ", " ".join(kept)).rstrip(".")
    return reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."
