"""The vocabulary of a loaded model: text to token ids and back."""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from edge.errors import EdgeError
from edge.llama.library import backend

if TYPE_CHECKING:
    from edge.llama.model import Model

_PIECE_BUFFER_BYTES = 256
# enum llama_token_attr in llama.h
_UNKNOWN_ATTRIBUTE, _NORMAL_ATTRIBUTE, _USER_DEFINED_ATTRIBUTE = 1 << 0, 1 << 2, 1 << 4
_STRIPS_LEFT_ATTRIBUTE, _STRIPS_RIGHT_ATTRIBUTE = 1 << 7, 1 << 8
_TEXT_ATTRIBUTES = _NORMAL_ATTRIBUTE | _USER_DEFINED_ATTRIBUTE
_C_WHITE_SPACE = r"[ \t\n\v\f\r]*"
_BESIDE_DROPPED_SPACES = re.compile(rb"[?!.,']")  # Source: llama_vocab::impl::detokenize in llama.cpp
_GUARD = "\ufdd0"  # a Unicode noncharacter
_SPACE = "\u2581"  # how SentencePiece writes a space


class Vocab:
    """Token ids of one model. Valid as long as its model is open."""

    def __init__(self, model: Model) -> None:
        self._model = model  # keeps the native model alive
        self._llama = backend()
        self._pointer = self._llama.llama_model_get_vocab(model.pointer)
        self._pieces: dict[int, bytes] = {}
        self.size: int = self._llama.llama_vocab_n_tokens(self._pointer)
        self._normalization = _normalization(model.metadata("edge.tokenizer.normalization"))
        self._prefix_space = model.metadata("edge.tokenizer.prefix_space")

    @property
    def bos_token(self) -> int | None:
        return self._id_or_none(self._llama.llama_vocab_bos(self._pointer))

    @property
    def eos_token(self) -> int | None:
        return self._id_or_none(self._llama.llama_vocab_eos(self._pointer))

    @property
    def eot_token(self) -> int | None:
        """The token that ends a turn, where it differs from the end of the sequence."""
        return self._id_or_none(self._llama.llama_vocab_eot(self._pointer))

    @property
    def add_bos(self) -> bool:
        return bool(self._llama.llama_vocab_get_add_bos(self._pointer))

    @property
    def pointer(self) -> int:
        """The native llama_vocab, for libraries that read a vocabulary themselves."""
        return int(self._pointer)

    @staticmethod
    def _id_or_none(token: int) -> int | None:
        return None if token < 0 else token

    def tokenize(self, text: str, *, parse_special: bool = False, starts_text: bool = True) -> list[int]:
        """Token ids of a text; with `parse_special`, control tokens written out in it become their ids.

        `starts_text` is False for what follows a control token: some tokenizers put a space before a whole text only.
        What a file says under `edge.tokenizer` is done here, because llama.cpp has no such rules.
        """
        if self._normalization:
            text = unicodedata.normalize(self._normalization, text)
        if not parse_special:
            return self._tokenize_plain(text, starts_text)
        if self._prefix_space is None and not self._ordinary_tokens:
            return self._tokenize(text, True)
        # llama.cpp would put a space behind every control token, and take ordinary tokens for some
        return self._tokenize_around(self._trusted, text, starts_text, self._tokenize_plain)

    def _tokenize_plain(self, text: str, starts_text: bool) -> list[int]:
        """Token ids of a text in which control tokens are text like any other."""
        if not self._overlooked.ids:
            return self._tokenize_prefixed(text, starts_text)
        return self._tokenize_around(self._overlooked, text, starts_text, self._tokenize_prefixed)

    def _tokenize_around(
        self, finder: _TokenFinder, text: str, starts_text: bool, tokenize_rest: Callable[[str, bool], list[int]]
    ) -> list[int]:
        """The tokens that are found in a text, and those of the texts around them."""
        tokens: list[int] = []
        position = 0
        for start, end, token in finder.find(text):
            tokens += [*tokenize_rest(text[position:start], starts_text and not tokens), token]
            position = end
        return tokens + tokenize_rest(text[position:], starts_text and not tokens)

    def _tokenize_prefixed(self, text: str, starts_text: bool) -> list[int]:
        """Token ids of a text, with the space in front that the file's rule gives it."""
        if self._prefix_space is None or not text:
            return self._tokenize(text, False)
        wants_space = (starts_text or self._prefix_space == "always") and not text.startswith((" ", _SPACE))
        # behind a character that no token contains, llama.cpp puts no space in front of the text by itself
        before = self._tokenize(_GUARD, False)
        return self._tokenize(_GUARD + " " * wants_space + text, False)[len(before) :]

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        encoded = text.encode("utf-8", "surrogatepass")
        capacity = len(encoded) + 8
        while True:
            tokens = (self._llama.llama_token * capacity)()
            count = self._llama.llama_tokenize(
                self._pointer, encoded, len(encoded), tokens, capacity, False, parse_special
            )
            if count >= 0:
                return list(tokens[:count])
            capacity = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text; control tokens add none."""
        piece = self._pieces.get(token)
        if piece is None:  # a text has the same few tokens over and over again
            piece = self._pieces[token] = self._piece(token, special=token in self._ordinary_tokens)
        return piece

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE_BUFFER_BYTES)  # its own: any thread may ask
        count = self._llama.llama_token_to_piece(self._pointer, token, buffer, len(buffer), 0, special)
        if count < 0:  # the buffer is too small and nothing was written
            buffer = ctypes.create_string_buffer(-count)
            count = self._llama.llama_token_to_piece(self._pointer, token, buffer, len(buffer), 0, special)
        return ctypes.string_at(buffer, count)

    def pieces(self) -> list[bytes]:
        """`piece` of every token."""
        pieces = self._pieces_at_once() or self._pieces_one_by_one()
        for token in self._ordinary_tokens:
            pieces[token] = self.piece(token)
        return pieces

    def _pieces_at_once(self) -> list[bytes] | None:
        """The bytes of every token by one native call, with NUL bytes between them; None if that tells them not apart.

        A call for each of 262k tokens takes ten times as long.
        """
        mark = next(iter(self._tokenize("\0", False)[-1:]), None)
        if mark is None or self.piece(mark) != b"\0":
            return None
        import numpy as np  # where it is not loaded yet, the model is read in meanwhile

        tokens = np.full(2 * self.size, mark, dtype=np.int32)
        tokens[1::2] = np.arange(self.size, dtype=np.int32)
        tokens = np.delete(tokens, (2 * mark, 2 * mark + 1))
        address = tokens.ctypes.data_as(ctypes.POINTER(self._llama.llama_token))
        n_bytes = -self._llama.llama_detokenize(self._pointer, address, len(tokens), None, 0, False, False)
        text = ctypes.create_string_buffer(n_bytes)
        left = self._llama.llama_detokenize(self._pointer, address, len(tokens), text, n_bytes, False, False)
        pieces = text.raw[:left].split(b"\0")[1:]
        if len(pieces) != self.size - 1:
            return None  # another token has a NUL in it as well
        pieces.insert(mark, b"\0")
        if left < n_bytes:  # some vocabularies drop spaces beside punctuation
            for token, piece in enumerate(pieces):
                if _BESIDE_DROPPED_SPACES.search(piece):
                    pieces[token] = self._piece(token, special=False)
        return pieces

    def _pieces_one_by_one(self) -> list[bytes]:
        to_piece, pointer, string_at = self._llama.llama_token_to_piece, self._pointer, ctypes.string_at
        buffer = ctypes.create_string_buffer(_PIECE_BUFFER_BYTES)
        pieces: list[bytes] = []
        for token in range(self.size):
            count = to_piece(pointer, token, buffer, _PIECE_BUFFER_BYTES, 0, False)
            pieces.append(string_at(buffer, count) if count >= 0 else self._piece(token, special=False))
        return pieces

    def text(self, token: int) -> str:
        """The token as written in the vocabulary, control tokens included."""
        return self._piece(token, special=True).decode("utf-8", "replace")

    def is_control(self, token: int) -> bool:
        return token in self._control_tokens

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens by their text."""
        return {self.text(token): token for token in sorted(self._control_tokens)}

    @cached_property
    def _trusted(self) -> _TokenFinder:
        """Finds the tokens that are read in trusted text only."""
        unknown = {
            self.text(token): token for token in range(self.size) if self._attributes(token) & _UNKNOWN_ATTRIBUTE
        }
        return _TokenFinder.of(
            {text: (token, self._attributes(token)) for text, token in (unknown | self.special_tokens).items()}
        )

    @cached_property
    def _overlooked(self) -> _TokenFinder:
        """Finds the tokens that belong to any text, which llama.cpp only reads in trusted text."""
        found = [token for token in self._ordinary_tokens if self._attributes(token) & _USER_DEFINED_ATTRIBUTE]
        return _TokenFinder.of({self.text(token): (token, 0) for token in found})

    def _attributes(self, token: int) -> int:
        return int(self._llama.llama_vocab_get_attr(self._pointer, token))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a generation."""
        candidates = {self.eos_token, self.eot_token, *self._control_tokens} - {None}
        is_end, pointer = self._llama.llama_vocab_is_eog, self._pointer
        return frozenset(token for token in candidates if token is not None and is_end(pointer, token))

    @cached_property
    def _control_tokens(self) -> frozenset[int]:
        return frozenset(self._marked_control) - self._ordinary_tokens

    @cached_property
    def _marked_control(self) -> list[int]:
        is_control, pointer = self._llama.llama_vocab_is_control, self._pointer
        return [token for token in range(self.size) if is_control(pointer, token)]

    @cached_property
    def _ordinary_tokens(self) -> frozenset[int]:
        """Tokens that llama.cpp treats as control tokens because of their text, although the file calls them text.

        Such is `</s>` in Gemma and Qwen, where it is HTML and ends nothing.
        """
        return frozenset(
            token
            for token in self._marked_control
            if self._attributes(token) & _TEXT_ATTRIBUTES
            and self.text(token) == "</s>"
            and token not in (self.eos_token, self.eot_token)
        )


def _normalization(name: str | None) -> Literal["NFC"] | None:
    """The normal form a file asks for; one that is not known is an error, for the ids would be others."""
    if name not in (None, "NFC"):
        raise EdgeError(
            f"The file asks for the text normalization {name!r}, which this version does not know.",
            hint="Upgrade with: pip install --upgrade edge-llm",
        )
    return "NFC" if name else None


@dataclass(frozen=True)
class _TokenFinder:
    """Finds tokens that are written out in a text: the longest that starts earliest."""

    pattern: re.Pattern[str]
    """With a group for each token."""
    ids: tuple[int, ...]
    """By the number of the group, from 1."""

    @classmethod
    def of(cls, tokens: Mapping[str, tuple[int, int]]) -> _TokenFinder:
        """One for tokens by their text, each an id and llama.cpp's attributes, which say where it takes white space."""
        alternatives, ids = [], []
        for text in sorted(tokens, key=len, reverse=True):
            token, attributes = tokens[text]
            left = _C_WHITE_SPACE if attributes & _STRIPS_LEFT_ATTRIBUTE else ""
            right = _C_WHITE_SPACE if attributes & _STRIPS_RIGHT_ATTRIBUTE else ""
            alternatives.append(f"{left}({re.escape(text)}){right}")
            ids.append(token)
        return cls(re.compile("|".join(alternatives) or "(?!)"), tuple(ids))

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Where each starts and ends, with the white space that it takes away, and its id."""
        for match in self.pattern.finditer(text):
            assert match.lastindex is not None
            yield match.start(), match.end(), self.ids[match.lastindex - 1]
