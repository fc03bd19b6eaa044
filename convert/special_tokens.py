"""Special tokens: which ids have a role, and what is put around every text.

A role is decided by the first that names it: the tokenizer's own template, tokenizer_config.json,
special_tokens_map.json, generation_config.json, config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert.checkpoint import Checkpoint
from convert.text_rules import Step
from edge.errors import EdgeError

ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")

# Tokens that end a chat turn, whatever the checkpoint calls the end of a text
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")

KNOWN_ENDS = frozenset(
    (
        *_END_OF_TURN,
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|file_sep|>"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
        *("<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
        *("<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_utterance>", "<turn|>", "<|tool_response>"),
        *("<｜end▁of▁sentence｜>", "[e~["),
    )
)
"""Texts that llama.cpp takes for the end of a generation, whatever the token is in its checkpoint.

Source: llama_vocab::impl::load in llama.cpp's src/llama-vocab.cpp
"""


@dataclass(frozen=True)
class Frame:
    """Token ids that the tokenizer puts before and after every text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by role (`bos`, `eos`, `eot`, `eom`, `unk`, `sep`, `pad`, `mask`), and which of them frame a text."""

    ids: dict[str, int]
    add_bos: bool
    add_eos: bool


def read_frame(post_processors: Sequence[Step]) -> Frame | None:
    """What the post-processors of a tokenizer.json add to a single text; None when none is a template."""
    frame = None
    for processor in post_processors:
        kind = processor["type"]
        if kind == "TemplateProcessing":
            frame = _template_frame(processor)
        elif kind != "ByteLevel":  # changes offsets only
            raise EdgeError(f"tokenizer.json has the post-processor {kind}, which llama.cpp cannot reproduce.")
    return frame


def read_special_tokens(
    checkpoint: Checkpoint,
    token_ids: Mapping[str, int],
    frame: Frame | None,
    *,
    default_ids: Mapping[str, int] | None = None,
    adds_bos_by_default: bool = False,
) -> SpecialTokens:
    """The special tokens of a checkpoint. EdgeError when a text would be framed by more than BOS and EOS."""
    ids = dict(default_ids or {}) | dict(_named_ids(checkpoint, token_ids))
    add_bos = bool(checkpoint.tokenizer_config.get("add_bos_token", adds_bos_by_default)) and "bos" in ids
    add_eos = bool(checkpoint.tokenizer_config.get("add_eos_token", False))
    if frame is not None:
        add_bos, add_eos = bool(frame.before), bool(frame.after)
        ids |= dict(zip(("bos",), frame.before, strict=False))
    ids |= _end_ids(checkpoint, token_ids, ids.get("eos"))
    if frame is not None and (len(frame.before) > 1 or frame.after not in ((), (ids["eos"],))):
        raise EdgeError(
            f"The tokenizer puts the tokens {list(frame.before)} before and {list(frame.after)} after every text.",
            hint="llama.cpp can add one token before a text and the end-of-sequence token after it.",
        )
    # llama.cpp takes an ordinary token for the BOS of a vocabulary that names none
    ids.setdefault("bos", ids["eos"])
    return SpecialTokens(ids, add_bos, add_eos)


def _template_frame(template: Step) -> Frame:
    before: list[int] = []
    after: list[int] = []
    side = before
    try:
        for item in template["single"]:
            if "Sequence" in item:
                side = after
            else:
                side += [int(number) for number in template["special_tokens"][item["SpecialToken"]["id"]]["ids"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeError(
            f"tokenizer.json has a damaged template: {error!r}.", hint="Download the file again."
        ) from error
    return Frame(tuple(before), tuple(after))


def _language_model_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The language model's part of a multimodal checkpoint's configuration; empty where there is none."""
    text = checkpoint.config.get("text_config")
    return text if isinstance(text, Mapping) else {}


def _named_ids(checkpoint: Checkpoint, token_ids: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The ids that configuration files name, by text or by number."""
    by_text = [checkpoint.tokenizer_config, _special_tokens_map(checkpoint)]
    by_number = [checkpoint.generation_config, checkpoint.config, _language_model_config(checkpoint)]
    known = set(token_ids.values())
    for role in ROLES:
        texts = (_text(config.get(f"{role}_token")) for config in by_text)
        numbers = (next(_numbers(config.get(f"{role}_token_id")), None) for config in by_number)
        named = [token_ids[text] for text in texts if text is not None and text in token_ids]
        numbered = [number for number in numbers if number in known and number is not None]
        if named or numbered:
            yield role, (named + numbered)[0]


def _end_ids(checkpoint: Checkpoint, token_ids: Mapping[str, int], eos: int | None) -> dict[str, int]:
    """EOS and the end of a turn; the role `eom` goes to a further end that llama.cpp does not know by its text."""
    texts = {token: text for text, token in token_ids.items()}
    configured = [*_numbers(checkpoint.generation_config.get("eos_token_id"))]
    for config in (checkpoint.config, _language_model_config(checkpoint)):
        configured += _numbers(config.get("eos_token_id"))
    ends = list(dict.fromkeys(([] if eos is None else [eos]) + [end for end in configured if end in texts]))
    if not ends:
        raise EdgeError(
            f"{checkpoint.directory} names no end-of-sequence token.",
            hint="Set eos_token in tokenizer_config.json or eos_token_id in config.json.",
        )
    turn_ends = [token_ids[text] for text in _END_OF_TURN if text in token_ids]
    roles = {"eos": ends[0], "eot": [*turn_ends, *ends[1:], ends[0]][0]}
    unknown = [end for end in ends if end not in roles.values() and texts[end] not in KNOWN_ENDS]
    if len(unknown) > 1:
        raise EdgeError(
            f"{checkpoint.directory} ends a generation at {len(ends)} tokens; llama.cpp would not stop at "
            f"{', '.join(repr(texts[end]) for end in unknown[1:])}.",
            hint="Shorten eos_token_id in generation_config.json.",
        )
    return roles | dict(zip(("eom",), unknown, strict=False))


def _numbers(value: Any) -> Iterator[int]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int):
            yield item


def _text(value: Any) -> str | None:
    """A token's text: it is given as text or as an AddedToken."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _special_tokens_map(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.directory / "special_tokens_map.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeError(f"{path} cannot be read: {error}.", hint="Download the file again.") from error
    return content if isinstance(content, dict) else {}
