"""One reply followed token by token: which tokens may come next, and which must.

Knows nothing of where the constraint comes from, and nothing of sampling, contexts or threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.closing_tokens import ClosingTokens
from edge.errors import EdgeError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_FORCED_TOKENS = 256
"""Told at once. A constraint may force a million of them, and computing them would keep everything else waiting."""
_MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class MatchedVocabulary:
    """What a matcher has to know of the vocabulary."""

    tokenizer: LLTokenizer
    end_tokens: frozenset[int]
    closing_tokens: ClosingTokens


class Matcher:
    """Follows one reply. Sample first: `is_allowed` costs microseconds, a mask many more."""

    def __init__(
        self, matcher: LLMatcher, vocabulary: MatchedVocabulary, literals: tuple[int, ...] = (), *, is_json: bool
    ) -> None:
        """`literals` are tokens that begin texts which the constraint names."""
        self._matcher = matcher
        self.literals = literals
        self.is_json = is_json
        self.vocabulary = vocabulary
        size = vocabulary.tokenizer.vocab_size
        self._size = size
        self._mask = np.empty((size + 31) // 32, dtype=np.uint32)
        self._address, self._bits = self._mask.ctypes.data, self._mask.view(np.uint8)

    def fork(self) -> Matcher:
        """Another one at the same place, which goes its own way."""
        return Matcher(self._matcher.deep_copy(), self.vocabulary, self.literals, is_json=self.is_json)

    @property
    def is_accepting(self) -> bool:
        """Whether what was written is a whole match, so that the reply may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def is_allowed(self, token: int) -> bool:
        if token in self.vocabulary.end_tokens:
            return self.is_accepting
        return bool(self._matcher.validate_tokens([token]))

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """Which tokens may come next, by id; EdgeError if none can. Shape: [vocabulary]."""
        self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._bits, bitorder="little", count=self._size)
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Takes the next token of the reply; EdgeError if it is not allowed, after which the matcher is of no use."""
        if not self._matcher.consume_token(token):
            self._check()
            raise EdgeError(f"Token {token} breaks the constraint.", hint="Ask is_allowed first.")

    def matches(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, and none after them, would make the reply a whole match."""
        if self._matcher.validate_tokens(list(tokens)) < len(tokens):
            return False
        ahead = self._matcher.deep_copy()
        return bool(ahead.consume_tokens(list(tokens)) and ahead.is_accepting())

    def forced_tokens(self) -> list[int]:
        """The next tokens that must come, in the model's own tokenization; they still have to be accepted.

        A long run is told in parts: when these were accepted, there may be more.
        """
        forced = self._matcher.compute_ff_tokens()
        self._check()
        if len(forced) > MAX_FORCED_TOKENS:
            del forced[MAX_FORCED_TOKENS:]
        return forced[: self._matcher.validate_tokens(forced)] if forced else []

    def respelt(self, tokens: Sequence[int]) -> list[int]:
        """The same bytes in long tokens, not in the model's own tokenization; the tokens as they are if that fails."""
        tokenizer = self.vocabulary.tokenizer
        text = tokenizer.decode_bytes(list(tokens))
        try:
            respelt = tokenizer.greedy_tokenize(text.decode())
        except UnicodeDecodeError:
            return list(tokens)
        return respelt if tokenizer.decode_bytes(respelt) == text else list(tokens)

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = first_lines(self._matcher.get_error())
            dead_end = reason.startswith("NoExtension")
            raise EdgeError(
                f"The constraint cannot be followed: {'nothing can come next' if dead_end else reason}.",
                hint="Correct the rule that has no end." if dead_end else "Make it less ambiguous, or shorter.",
            )


def first_lines(problem: str) -> str:
    """llguidance's message in one line, without the excerpts and the state that it prints behind it."""
    message = re.split(r"\s*<(?:state|non-verbose/)>", problem)[0].split("(in regex): ")[-1]
    if "regex parse error:" in message:
        message = _regex_problem(message)
    lines = (line.strip() for line in message.splitlines())
    kept = [line for line in lines if line and not re.match(r"\d+ \||\^+$", line)]
    reason = re.sub(r"^(at )?(\d+)\((\d+)\): ", r"line \2, column \3: ", " ".join(kept)).rstrip(".")
    return reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."


def _regex_problem(message: str) -> str:
    """The problem itself, without the expression that is printed before it and may be long."""
    reason = message.rpartition("error: ")[2]
    marked = re.search(r"\n {4}( *)\^", message)
    place = f"character {len(marked[1]) + 1}: " if marked and "\n" not in reason.strip() else ""
    return f"regex parse error: {place}{reason}"
