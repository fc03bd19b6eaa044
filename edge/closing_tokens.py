"""Which tokens of a vocabulary are likely to bring a text to its end: an order in which to try them.

Knows JSON and what other formats share with it, brackets and quotes. Whether a token may come next is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

_PUNCTUATION = b"\"'[](){}<>,.:;0123456789 \n"
_MAX_PUNCTUATION_BYTES = 12
# the first that fits says how soon a token is tried
_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        rb'"?[\]})>]+',  # ends what is open
        rb'"?, ?',
        rb' ?""[\]})>]*',  # an empty value, and what ends with it
        rb" ?(\[\]|\{\}|\(\)|[0-9])[\]})>]*",
        rb" ?[0-9]+",
        rb" ?[\"']",
        rb"[^\[({<\"']+",
        rb"[^\[({<]+",
    )
)
_END_OF_STRING = re.compile(rb" ?[\"'][^\"'].*", re.DOTALL)
_MAX_FILLER_BYTES = 24


@dataclass(frozen=True)
class ClosingTokens:
    """Token ids in the order in which they are tried."""

    closers: Tokens
    """Punctuation and short values, those that end most first."""
    quotes: Tokens
    """Those of them that begin with a quotation mark, for places within a string."""
    values: Tokens
    """Those of them that do not begin as if they ended a string, for places where one may begin."""
    text_signs: Tokens
    """Closing brackets of two kinds. Where both may come next they are text, for nothing is closed by both."""
    string_signs: Tokens
    """The same behind a quotation mark, which then begins a string."""
    openers: Tokens
    """Punctuation after which more is open than before."""
    fillers: Tokens
    """Other text, longest first: the fewest tokens for a text that has to be long."""

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> ClosingTokens:
        """From the bytes of each token, by id; those of control tokens do not matter."""
        punctuation = [
            token
            for token, piece in enumerate(pieces)
            if piece and not piece.strip(_PUNCTUATION) and len(piece) <= _MAX_PUNCTUATION_BYTES
        ]
        punctuation.sort(key=lambda token: (_rank(pieces[token]), -len(pieces[token]), b"0" in pieces[token], token))
        closers = [token for token in punctuation if _rank(pieces[token]) < len(_ORDER)]
        openers = punctuation[len(closers) :]
        lengths = np.fromiter((len(piece) if piece.isascii() else 1 for piece in pieces), np.int32, len(pieces))
        lengths[lengths > _MAX_FILLER_BYTES] = 0
        lengths[punctuation] = 0
        by_length = np.argsort(-lengths, kind="stable").astype(np.int32)
        quotes = [token for token in closers if pieces[token].startswith(b'"')]
        values = [token for token in closers if not _END_OF_STRING.fullmatch(pieces[token])]
        text_signs = [token for token in closers if pieces[token] in (b"]", b"}")]
        string_signs = [token for token in closers if pieces[token] in (b'"]', b'"}')]
        return cls(
            _tokens(closers),
            _tokens(quotes),
            _tokens(values),
            _tokens(text_signs),
            _tokens(string_signs),
            _tokens(openers),
            by_length[: np.count_nonzero(lengths)],
        )

    def is_text(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether brackets are text where these tokens are allowed."""
        return _all_allowed(self.text_signs, allowed)

    def in_order(self, allowed: NDArray[np.bool_]) -> Tokens:
        """The allowed closers, best first."""
        tokens = self.closers
        if self.is_text(allowed):
            tokens = self.quotes
        elif _all_allowed(self.string_signs, allowed):
            tokens = self.values
        return tokens[allowed[tokens]]


def _all_allowed(signs: Tokens, allowed: NDArray[np.bool_]) -> bool:
    return len(signs) > 1 and bool(allowed[signs].all())


def _tokens(tokens: Sequence[int]) -> Tokens:
    return np.array(tokens, dtype=np.int32)


def _rank(piece: bytes) -> int:
    return next((rank for rank, pattern in enumerate(_ORDER) if pattern.fullmatch(piece)), len(_ORDER))
