"""The tokenizer's part of a GGUF file as a value, and the keys it is written under.

Source: llama.cpp's gguf-py/gguf/constants.py (Keys.Tokenizer) and src/llama-vocab.cpp (llama_vocab::impl::load)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from convert.text_rules import NORMALIZATION_KEY, PREFIX_SPACE_KEY, TextRules
from edge.gguf_format import MetadataEntry, ValueType


class TokenType(IntEnum):
    """What llama.cpp does with a token. Source: llama_token_type in llama.cpp's include/llama.h"""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ROLE_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelled like this in the format
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}


@dataclass(frozen=True)
class Limitation:
    """Something that llama.cpp does otherwise than the checkpoint's tokenizer, in words for a person."""

    words: str
    touched: re.Pattern[str] | None = None
    """Every place in a text around which token ids may differ; None if they never do."""

    @classmethod
    def of_tokens(cls, words: str, texts: Iterable[str]) -> Limitation:
        """One that only touches tokens of these texts."""
        return cls(words, re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))))


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's part of a GGUF file, one entry of `tokens` and `types` per row of the embedding."""

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    special_ids: dict[str, int]
    """By role: bos, eos, eot, eom, unk, sep, pad, mask."""
    add_bos: bool
    add_eos: bool
    rules: TextRules
    chat_template: str | None
    limitations: tuple[Limitation, ...]

    def without_padding(self) -> Vocabulary:
        """The same without the unused ids behind its last token."""
        count = 1 + max(number for number, kind in enumerate(self.types) if kind != TokenType.UNUSED)
        scores = self.scores and self.scores[:count]
        return replace(self, tokens=self.tokens[:count], types=self.types[:count], scores=scores)

    def metadata(self) -> list[MetadataEntry]:
        """The keys from which llama.cpp, and `edge` for what llama.cpp does not do, read the vocabulary."""
        return [
            MetadataEntry("tokenizer.ggml.model", ValueType.STRING, self.model),
            MetadataEntry("tokenizer.ggml.pre", ValueType.STRING, self.pre),
            MetadataEntry("tokenizer.ggml.tokens", ValueType.ARRAY, self.tokens, ValueType.STRING),
            MetadataEntry("tokenizer.ggml.token_type", ValueType.ARRAY, self.types, ValueType.INT32),
            *self._merging_entries(),
            *(
                MetadataEntry(f"tokenizer.ggml.{_ROLE_KEYS[role]}", ValueType.UINT32, token)
                for role, token in self.special_ids.items()
            ),
            MetadataEntry("tokenizer.ggml.add_bos_token", ValueType.BOOL, self.add_bos),
            MetadataEntry("tokenizer.ggml.add_eos_token", ValueType.BOOL, self.add_eos),
            MetadataEntry("tokenizer.ggml.add_space_prefix", ValueType.BOOL, self.rules.add_space_prefix),
            *self._rule_entries(),
        ]

    def _merging_entries(self) -> Iterator[MetadataEntry]:
        if self.scores is not None:
            yield MetadataEntry("tokenizer.ggml.scores", ValueType.ARRAY, self.scores, ValueType.FLOAT32)
        if self.merges is not None:
            yield MetadataEntry("tokenizer.ggml.merges", ValueType.ARRAY, self.merges, ValueType.STRING)

    def _rule_entries(self) -> Iterator[MetadataEntry]:
        if self.rules.normalization:
            yield MetadataEntry(NORMALIZATION_KEY, ValueType.STRING, self.rules.normalization)
        if self.rules.prefix_space:
            yield MetadataEntry(PREFIX_SPACE_KEY, ValueType.STRING, self.rules.prefix_space)
        if self.chat_template is not None:
            yield MetadataEntry("tokenizer.chat_template", ValueType.STRING, self.chat_template)


@dataclass(frozen=True)
class Token:
    """A token as it stands in the file."""

    text: str
    type: TokenType
    score: float = 0.0


@dataclass(frozen=True)
class Pieces:
    """What the kind of a tokenizer decides: its tokens by id and how they are merged."""

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: dict[int, Token]
    merges: list[str] | None
    rules: TextRules
    limitations: tuple[Limitation, ...] = ()
