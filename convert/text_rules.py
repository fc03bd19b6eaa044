"""What a tokenizer does to a text before merging, besides splitting it: normalization and the space in front.

llama.cpp puts a space in front of a text and of what follows each special token, or does not; it normalizes nothing.
What goes beyond that is written into the file under keys of our own, for `edge` to do before llama.cpp sees the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from edge.errors import EdgeError

SPACE = "▁"
"""SentencePiece writes a space as U+2581."""

Step = dict[str, Any]
"""A normalizer, pre-tokenizer or post-processor as tokenizer.json writes it, with its `type`."""

NORMALIZATION_KEY = "edge.tokenizer.normalization"
PREFIX_SPACE_KEY = "edge.tokenizer.prefix_space"


@dataclass(frozen=True)
class TextRules:
    """Rules for a text; the defaults are what byte-level tokenizers without a normalizer do."""

    add_space_prefix: bool = False
    """llama.cpp's own: before the text and after every special token, even if there is a space."""
    normalization: Literal["NFC"] | None = None
    prefix_space: Literal["first", "always"] | None = None
    """Where the tokenizer puts a space unless there is one: before the whole text, or after special tokens as well."""


def byte_level_rules(normalizers: Sequence[Step]) -> TextRules:
    """The rules of a byte-level tokenizer; EdgeError for a normalizer other than NFC."""
    match normalizers:
        case []:
            return TextRules()
        case [{"type": "NFC"}]:
            return TextRules(normalization="NFC")
    return _refuse("normalizer", normalizers)


def spaced_rules(normalizers: Sequence[Step], pre_tokenizers: Sequence[Step]) -> TextRules:
    """The rules of a tokenizer that writes spaces as U+2581, by a normalizer or by a pre-tokenizer called Metaspace."""
    if not normalizers:
        return _metaspace_rules(pre_tokenizers)
    if not all(map(_is_split_at_spaces, pre_tokenizers)):  # at which there are none left
        _refuse("pre-tokenizer", pre_tokenizers)
    match normalizers:
        case [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]:
            return TextRules()
        case [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]:
            return TextRules(add_space_prefix=True)
    return _refuse("normalizer", normalizers)


def _metaspace_rules(pre_tokenizers: Sequence[Step]) -> TextRules:
    match pre_tokenizers:
        case [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}]:
            if scheme == "never":
                return TextRules()
            return TextRules(add_space_prefix=True, prefix_space=scheme)
    return _refuse("pre-tokenizer", pre_tokenizers)


def _is_split_at_spaces(step: Step) -> bool:
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _refuse(kind: str, steps: Sequence[Step]) -> NoReturn:
    raise EdgeError(
        f"tokenizer.json has a {kind} that llama.cpp cannot reproduce: {json.dumps(steps, ensure_ascii=False)}.",
        hint="Known: NFC for byte-level tokenizers; spaces written as U+2581, with or without one in front.",
    )
