"""Vocabularies small enough to check by eye."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

FIRST_CHARACTER_TOKEN = 1000


class ToyVocabulary:
    """One token for each character, and the control tokens it is given.

    Splits text as llama.cpp does: the longest control token takes its place first. With `space_prefix` plain text at
    the start and after a control token gets a space in front, as in SentencePiece; with `strips_following` white space
    after a control token is dropped, as for Phi-3.
    """

    def __init__(
        self,
        control: Iterable[str],
        *,
        bos: str | None = None,
        add_bos: bool = False,
        space_prefix: bool = False,
        strips_following: bool = False,
    ) -> None:
        self.special_tokens = {text: token for token, text in enumerate(control)}
        self.bos_token = None if bos is None else self.special_tokens[bos]
        self.eos_token: int | None = None
        self.add_bos = add_bos
        self._space_prefix = space_prefix
        self._strips_following = strips_following

    def tokenize(self, text: str, *, parse_special: bool = False, starts_text: bool = True) -> list[int]:
        parts: list[str | int] = [text]
        for control in sorted(self.special_tokens, key=len, reverse=True) if parse_special else ():
            parts = [piece for part in parts for piece in self._cut(part, control)]
        tokens: list[int] = []
        after_control = True
        for part in parts:
            if isinstance(part, int):
                tokens.append(part)
            elif part := part.lstrip() if self._strips_following and tokens and after_control else part:
                text = " " + part if self._space_prefix and after_control else part
                tokens += [FIRST_CHARACTER_TOKEN + ord(character) for character in text]
            after_control = isinstance(part, int)
        return tokens

    def _cut(self, part: str | int, control: str) -> list[str | int]:
        if isinstance(part, int):
            return [part]
        pieces: list[str | int] = []
        for text in part.split(control):
            pieces += [self.special_tokens[control], text]
        return [piece for piece in pieces[1:] if piece != ""]

    def text(self, token: int) -> str:
        if token >= FIRST_CHARACTER_TOKEN:
            return chr(token - FIRST_CHARACTER_TOKEN)
        return next(text for text, known in self.special_tokens.items() if known == token)

    @property
    def size(self) -> int:
        return FIRST_CHARACTER_TOKEN + sys.maxunicode + 1

    def piece(self, token: int) -> bytes:
        return b"" if self.is_control(token) else self.text(token).encode()

    def is_control(self, token: int) -> bool:
        return token < FIRST_CHARACTER_TOKEN


class ByteVocabulary:
    """One token for each byte, with the byte as its number, then control tokens, then words.

    Of the tokens that fit, the longest goes first. With `space_prefix` every text gets a space in front, as in
    SentencePiece.
    """

    def __init__(self, words: Sequence[bytes] = (), *, space_prefix: bool = False) -> None:
        self.special_tokens = {"<s>": 256, "</s>": 257, "<turn>": 258}
        self.bos_token: int | None = 256
        self.end_tokens = frozenset({257, 258})
        self._pieces = [bytes([byte]) for byte in range(256)] + [b"", b"", b"", *words]
        self._space_prefix = space_prefix

    @property
    def size(self) -> int:
        return len(self._pieces)

    def pieces(self) -> list[bytes]:
        return list(self._pieces)

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def is_control(self, token: int) -> bool:
        return token in self.special_tokens.values()

    def text(self, token: int) -> str:
        names = {known: text for text, known in self.special_tokens.items()}
        return names.get(token, self._pieces[token].decode("latin-1"))

    def tokenize(self, text: str, *, parse_special: bool = False, starts_text: bool = True) -> list[int]:
        left = (b" " if self._space_prefix and text else b"") + text.encode()
        tokens = []
        while left:
            token = max(range(len(self._pieces)), key=lambda token: _fit(self._pieces[token], left))
            tokens.append(token)
            left = left[len(self._pieces[token]) :]
        return tokens


def _fit(piece: bytes, text: bytes) -> int:
    return len(piece) if text.startswith(piece) else 0
