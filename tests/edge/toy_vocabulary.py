"""A vocabulary small enough to check by eye: one token for each character, and the control tokens it is given."""

from __future__ import annotations

from collections.abc import Iterable

FIRST_CHARACTER_TOKEN = 1000


class ToyVocabulary:
    """Splits text as llama.cpp does: the longest control token takes its place first.

    With `space_prefix` plain text at the start and after a control token gets a space in front, as in SentencePiece;
    with `strips_following` white space after a control token is dropped, as for Phi-3.
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

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
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

    def is_control(self, token: int) -> bool:
        return token < FIRST_CHARACTER_TOKEN
