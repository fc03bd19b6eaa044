"""The vocabulary of a loaded model: text to token ids and back."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import TYPE_CHECKING

from edge.llama.library import backend

if TYPE_CHECKING:
    from edge.llama.model import Model

_PIECE_BUFFER_BYTES = 256


class Vocab:
    """Token ids of one model. Valid as long as its model is open."""

    def __init__(self, model: Model) -> None:
        self._model = model  # keeps the native model alive
        self._llama = backend()
        self._pointer = self._llama.llama_model_get_vocab(model.pointer)
        self._buffer = ctypes.create_string_buffer(_PIECE_BUFFER_BYTES)
        self.size: int = self._llama.llama_vocab_n_tokens(self._pointer)

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

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text; with `parse_special`, control tokens written out in it become their ids."""
        encoded = text.encode("utf-8", "surrogatepass")
        capacity = len(encoded) + 8
        while True:
            tokens = (self._llama.llama_token * capacity)()
            count = self._llama.llama_tokenize(
                self._pointer, encoded, len(encoded), tokens, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(tokens[:count])
            capacity = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text; control tokens add none."""
        return self._piece(token, special=False)

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = self._buffer
        count = self._llama.llama_token_to_piece(self._pointer, token, buffer, len(buffer), 0, special)
        if count < 0:  # the buffer is too small and nothing was written
            buffer = ctypes.create_string_buffer(-count)
            count = self._llama.llama_token_to_piece(self._pointer, token, buffer, len(buffer), 0, special)
        return buffer.raw[:count]

    def pieces(self) -> list[bytes]:
        """`piece` of every token."""
        return [self.piece(token) for token in range(self.size)]

    def text(self, token: int) -> str:
        """The token as written in the vocabulary, control tokens included."""
        return self._piece(token, special=True).decode("utf-8", "replace")

    def is_control(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_control(self._pointer, token))

    def is_end_of_generation(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_eog(self._pointer, token))

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens by their text."""
        is_control, pointer = self._llama.llama_vocab_is_control, self._pointer
        return {self.text(token): token for token in range(self.size) if is_control(pointer, token)}

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a generation."""
        is_end, pointer = self._llama.llama_vocab_is_eog, self._pointer
        return frozenset(token for token in range(self.size) if is_end(pointer, token))
