"""The same text in the tokens that the KV cache holds already.

A model may write a word in other tokens than its tokenizer would: an answer that is tokenized again can miss the keys
and values that were computed for it. What a prompt says is not changed by that: tokens are exchanged for others only
where both are the same bytes, and control tokens for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Pieces(Protocol):
    """What is needed of a vocabulary; `edge.llama.vocab.Vocab` is one."""

    @property
    def size(self) -> int: ...
    def piece(self, token: int) -> bytes: ...
    def is_control(self, token: int) -> bool: ...


def with_known_tokens(tokens: Sequence[int], known: Sequence[int], vocab: Pieces) -> tuple[int, ...]:
    """`tokens`, but beginning with as many of the `known` ones as are the same text."""
    place = 0
    known_place = 0
    while known_place < len(known) and place < len(tokens):
        if known[known_place] == tokens[place]:
            steps = 1, 1
        else:
            steps = _same_text(known[known_place:], tokens[place:], vocab)
        if steps == (0, 0):
            break
        known_place += steps[0]
        place += steps[1]
    return (*known[:known_place], *tokens[place:])


def _same_text(left: Sequence[int], right: Sequence[int], vocab: Pieces) -> tuple[int, int]:
    """How many tokens of both sides are the same bytes, as few as possible; (0, 0) if none are."""
    ends = [0, 0]
    texts = [b"", b""]
    sides = (left, right)
    while True:
        behind = 0 if len(texts[0]) <= len(texts[1]) else 1
        if ends[behind] == len(sides[behind]):
            return 0, 0
        piece = _plain_piece(sides[behind][ends[behind]], vocab)
        ends[behind] += 1
        texts[behind] += piece
        shared = min(map(len, texts))
        if not piece or texts[0][:shared] != texts[1][:shared]:
            return 0, 0
        if len(texts[0]) == len(texts[1]):
            return ends[0], ends[1]


def _plain_piece(token: int, vocab: Pieces) -> bytes:
    """The bytes of a token that is text; none for control tokens and for what is no token."""
    return b"" if not 0 <= token < vocab.size or vocab.is_control(token) else vocab.piece(token)
