"""Constraints on what a model may write: JSON Schema, regular expression or grammar, enforced token by token.

llguidance follows the text written so far and says which tokens may come next and which must. A constraint that cannot
be enforced is refused with the reason. Knows nothing of sampling, contexts or threads.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edge.errors import EdgeError
from edge.guidance import Kind, Vocabulary, compile_grammar, literals_of, problem_of, read_vocabulary, refusal
from edge.matcher import MatchedVocabulary
from edge.matcher import Matcher as Matcher  # what compiling gives
from edge.schema_check import parse_schema, refuse_ignored_keywords
from edge.schema_of import schema_of
from edge.schema_relaxation import Relaxation, relaxations

DEFAULT_ATTEMPTS = 4
_MAX_COMPILED = 64


@dataclass(frozen=True)
class Constraint:
    """What a reply must match as a whole. A plain value: whether it can be enforced shows when it is compiled."""

    kind: Kind
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
        problem = problem_of(relaxation.schema)
        if not problem:
            return relaxation
        if "Unsatisfiable" in problem:
            break
    raise refusal(constraint.kind, constraint.text, problem)


class ConstraintCompiler:
    """Compiles constraints for the vocabulary of one model, from any thread.

    The first to compile reads the vocabulary, which takes longest: make one compiler per model. Others wait for it, and
    for a constraint that is being compiled already.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        self._reading = threading.Lock()
        self._read: MatchedVocabulary | None = None
        self._entering = threading.Lock()
        self._compiled: OrderedDict[Constraint, _Compiled] = OrderedDict()

    def prepare(self) -> None:
        """Read the vocabulary, so that compiling takes milliseconds. EdgeError if it cannot hold a constraint."""
        self._vocabulary()

    def compile(self, constraint: Constraint) -> Matcher:
        """A matcher at the start of a reply; EdgeError with the reason where the constraint cannot be enforced."""
        vocabulary = self._vocabulary()
        with self._entering:
            compiled = self._compiled.setdefault(constraint, _Compiled())
            self._compiled.move_to_end(constraint)
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return compiled.matcher(constraint, vocabulary).fork()

    def _vocabulary(self) -> MatchedVocabulary:
        with self._reading:
            if self._read is None:
                self._read = read_vocabulary(self._vocab)
            return self._read


class _Compiled:
    """A constraint that is compiled once, by the first who needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._result: Matcher | EdgeError | None = None

    def matcher(self, constraint: Constraint, vocabulary: MatchedVocabulary) -> Matcher:
        with self._lock:
            if self._result is None:
                self._result = _compile(constraint, vocabulary)
            if isinstance(self._result, EdgeError):
                raise EdgeError(self._result.message, hint=self._result.hint)
            return self._result


def _compile(constraint: Constraint, vocabulary: MatchedVocabulary) -> Matcher | EdgeError:
    try:
        compiled = compile_grammar(constraint.kind, constraint.text, vocabulary)
        literals = literals_of(constraint.kind, constraint.text, vocabulary)
        matcher = Matcher(compiled, vocabulary, literals, is_json=constraint.kind == "json_schema")
        for _ in range(2):  # the first refuses what has no start, the second what the first has made too large
            start = matcher.fork()
            start.forced_tokens()
            start.allowed_tokens()
        return matcher
    except EdgeError as error:
        return error
