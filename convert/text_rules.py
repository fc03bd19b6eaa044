"""What a tokenizer does to a text before merging, besides splitting it: normalization and the space in front.

llama.cpp puts a space in front of a text and of what follows each special token, or does not; it normalizes nothing.
What goes beyond that is written into the file under keys of our own, for `edge` to do before llama.cpp sees the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from edge.errors import EdgeError

SPACE = "▁"
"""SentencePiece writes a space as U+2581."""

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


def byte_level_rules(normalizer: Any) -> TextRules:
    """The rules of a byte-level tokenizer; EdgeError for a normalizer other than NFC."""
    steps = list(_steps(normalizer, "normalizers"))
    if steps == []:
        return TextRules()
    if steps == [{"type": "NFC"}]:
        return TextRules(normalization="NFC")
    return _refuse("normalizer", steps)


def spaced_rules(normalizer: Any, pre_tokenizer: Any) -> TextRules:
    """The rules of a tokenizer that writes spaces as U+2581, by a normalizer or by a pre-tokenizer called Metaspace."""
    normalizers = list(_steps(normalizer, "normalizers"))
    splits = list(_steps(pre_tokenizer, "pretokenizers"))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if replace in normalizers:
        if any(not _is_split_at_spaces(split) for split in splits):  # there are none left to split at
            _refuse("pre-tokenizer", splits)
        rest = [step for step in normalizers if step != replace]
        if rest not in ([], [{"type": "Prepend", "prepend": SPACE}]):
            _refuse("normalizer", normalizers)
        return TextRules(add_space_prefix=bool(rest))
    if normalizers:
        _refuse("normalizer", normalizers)
    return _metaspace_rules(splits)


def _metaspace_rules(splits: list[dict[str, Any]]) -> TextRules:
    match splits:
        case [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}]:
            if scheme == "never":
                return TextRules()
            return TextRules(add_space_prefix=True, prefix_space=scheme)
    return _refuse("pre-tokenizer", splits)


def _is_split_at_spaces(step: dict[str, Any]) -> bool:
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _steps(value: Any, parts: str) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if value.get("type") == "Sequence":
        for part in value[parts]:
            yield from _steps(part, parts)
    else:
        yield value


def _refuse(kind: str, steps: list[dict[str, Any]]) -> NoReturn:
    raise EdgeError(
        f"tokenizer.json has a {kind} that llama.cpp cannot reproduce: {json.dumps(steps, ensure_ascii=False)}.",
        hint="Known: NFC for byte-level tokenizers; spaces written as U+2581, with or without one in front.",
    )
