"""Reads a tokenizer.json into a record. What its parts mean for llama.cpp is for `convert.tokenizer`.

Source: https://github.com/huggingface/tokenizers (the serialization of Tokenizer, BPE and AddedToken)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import EdgeError

Merge = tuple[str, str]


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything is normalized, split or merged."""

    id: int
    text: str
    is_special: bool
    strips_spaces: bool
    """Takes the white space beside it away."""
    is_whole_word: bool


@dataclass(frozen=True)
class BytePairTokenizer:
    """A tokenizer.json whose model is byte-pair encoding; parts that are interpreted elsewhere stay JSON."""

    path: Path
    vocabulary: dict[str, int]
    merges: list[Merge]
    """Best first."""
    byte_fallback: bool
    ignores_merges: bool
    unknown_token: str | None
    added_tokens: list[AddedToken]
    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any

    def token_ids(self) -> dict[str, int]:
        """The id of each token's text, added tokens included."""
        return self.vocabulary | {token.text: token.id for token in self.added_tokens}


def read_tokenizer_json(path: Path) -> BytePairTokenizer:
    """The record of a tokenizer.json; EdgeError when it is damaged or its model is not byte-pair encoding."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content["model"]
        _check_model(path, model)
        return BytePairTokenizer(
            path=path,
            vocabulary=_vocabulary(model["vocab"]),
            merges=_merges(model["merges"]),
            byte_fallback=bool(model.get("byte_fallback")),
            ignores_merges=bool(model.get("ignore_merges")),
            unknown_token=model.get("unk_token"),
            added_tokens=[_added_token(token) for token in content.get("added_tokens") or ()],
            normalizer=content.get("normalizer"),
            pre_tokenizer=content.get("pre_tokenizer"),
            post_processor=content.get("post_processor"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgeError(
            f"{path} is not a tokenizer of the tokenizers library: {error!r}.", hint="Download the file again."
        ) from error


def _check_model(path: Path, model: dict[str, Any]) -> None:
    kind = model.get("type", "BPE")  # files of early releases do not name it
    if kind != "BPE":
        raise EdgeError(
            f"{path} holds a {kind} tokenizer, which cannot be converted.",
            hint="Byte-pair encoding (BPE) can, byte-level or with byte fallback.",
        )
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            raise EdgeError(f"{path} sets {option} to {model[option]!r}, which llama.cpp cannot reproduce.")


def _vocabulary(value: dict[str, int]) -> dict[str, int]:
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in value.values()):
        raise ValueError("a token's id is not a number")
    return value


def _merges(values: Iterable[str | list[str]]) -> list[Merge]:
    """Merges as pairs: they are written as pairs, by earlier releases as both parts with a space between."""
    merges = []
    for value in values:
        left, right = value.split(" ") if isinstance(value, str) else value
        merges.append((left, right))
    return merges


def _added_token(value: dict[str, Any]) -> AddedToken:
    return AddedToken(
        id=int(value["id"]),
        text=str(value["content"]),
        is_special=bool(value.get("special")),
        strips_spaces=bool(value.get("lstrip") or value.get("rstrip")),
        is_whole_word=bool(value.get("single_word")),
    )
