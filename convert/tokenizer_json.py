"""Reads a tokenizer.json into a record. What its parts mean for llama.cpp is for `convert.tokenizer`.

Source: https://github.com/huggingface/tokenizers (the serialization of Tokenizer, BPE and AddedToken)
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.added_tokens import AddedToken, parse_added_token
from convert.text_rules import Step
from edge.errors import EdgeError

Merge = tuple[str, str]


@dataclass(frozen=True)
class BytePairTokenizer:
    """A tokenizer.json whose model is byte-pair encoding; its steps are left as JSON."""

    path: Path
    vocabulary: dict[str, int]
    merges: list[Merge]
    """Best first."""
    byte_fallback: bool
    ignores_merges: bool
    unknown_token: str | None
    added_tokens: list[AddedToken]
    normalizers: list[Step]
    pre_tokenizers: list[Step]
    post_processors: list[Step]

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
            merges=_merges(model["merges"], model["vocab"]),
            byte_fallback=bool(model.get("byte_fallback")),
            ignores_merges=bool(model.get("ignore_merges")),
            unknown_token=model.get("unk_token"),
            added_tokens=_added_tokens(content.get("added_tokens") or (), model["vocab"]),
            normalizers=list(flat_steps(content.get("normalizer"), "normalizers")),
            pre_tokenizers=list(flat_steps(content.get("pre_tokenizer"), "pretokenizers")),
            post_processors=list(flat_steps(content.get("post_processor"), "processors")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgeError(
            f"{path} is not a tokenizer of the tokenizers library: {error!r}.", hint="Download the file again."
        ) from error


def flat_steps(value: Any, parts: str) -> Iterator[Step]:
    """The steps that a step stands for: those of a sequence, which are under the name `parts`, or itself."""
    if value is None:
        return
    if not isinstance(value["type"], str):
        raise TypeError(f"{value!r} has no type")
    if value["type"] != "Sequence":
        yield value
        return
    for part in value[parts]:
        yield from flat_steps(part, parts)


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


def _merges(values: Iterable[str | list[str]], vocabulary: Container[str]) -> list[Merge]:
    """Merges as pairs: they are written as pairs, by earlier releases as both parts with a space between."""
    merges = []
    for value in values:
        left, right = value.split(" ") if isinstance(value, str) else value
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise ValueError(f"the merge of {left!r} and {right!r} is not of tokens")
        merges.append((left, right))
    return merges


def _added_tokens(values: Iterable[dict[str, Any]], vocabulary: dict[str, int]) -> list[AddedToken]:
    """Added tokens; one that is in the vocabulary as well has its id there."""
    return [parse_added_token(vocabulary.get(value["content"], int(value["id"])), value) for value in values]
