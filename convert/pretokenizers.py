"""Pre-tokenizers: what a tokenizer.json does before byte-pair merging, and the name llama.cpp has for it.

A pre-tokenizer is reduced to the regexes that split the text one after the other; llama.cpp keeps its own as lists of
regexes too, so the table below reads like its counterpart. Knows nothing about vocabularies.
Source: llm_tokenizer_bpe and llama_vocab::impl::load in llama.cpp's src/llama-vocab.cpp, which quotes the regexes as
published; every row is compared with llama.cpp by a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from convert.text_rules import Step
from edge.errors import EdgeError

# What ByteLevel splits with when `use_regex` is set, and what Digits amounts to
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EACH_DIGIT = r"\p{N}"
DIGIT_RUNS = r"\p{N}+"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str, contractions: str = _CONTRACTIONS + "|") -> str:
    """The regex of GPT-3.5 and its descendants, which differ in how many digits stay together."""
    return rf"{contractions}[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


CL100K = _words(r"\p{N}{1,3}")
QWEN2 = _words(r"\p{N}")
QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES

SEED_CODER = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES
LING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased_words(digits: str, contractions: str) -> str:
    """The regex of GPT-4o and its relatives: a word is capitals, then small letters."""
    capitalized = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{contractions}"
    capitals = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{contractions}"
    return rf"{capitalized}|{capitals}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


O200K = _cased_words(r"\p{N}{1,3}", _CONTRACTIONS + "?")
TEKKEN = _cased_words(r"\p{N}", "")

_DEEPSEEK_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_CJK_RUNS = "[一-龥぀-ゟ゠-ヿ]+"

DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", EACH_DIGIT)

_SPACE_DIFFERENCE = "llama.cpp does not join white space that is not ASCII to the word behind it"
_CASE_DIFFERENCE = (
    "llama.cpp tells capitals from small letters in ASCII only and does not count combining marks as letters, so words "
    "with accented capitals or combining marks may be split elsewhere"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One of llama.cpp's pre-tokenizers, and the regexes with which a tokenizer.json says the same."""

    name: str
    """The value of `tokenizer.ggml.pre`."""
    splits: tuple[str, ...]
    ignores_merges: bool
    """A word that is a token is taken whole, even if no sequence of merges leads to it."""
    models: str
    difference: str = ""
    """How llama.cpp's splits differ from the regexes; empty when they do not."""


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (GPT2,), False, "GPT-2, Phi-1.5, Phi-2, OLMo"),
    PreTokenizer("smollm", (EACH_DIGIT, GPT2), False, "SmolLM, SmolLM2, StarCoder2, Command R"),
    PreTokenizer("llama-bpe", (CL100K,), True, "Llama 3"),
    PreTokenizer("dbrx", (CL100K,), False, "DBRX, OLMo 2, Phi-4"),
    PreTokenizer("qwen2", (QWEN2,), False, "Qwen2, Qwen2.5, Qwen3"),
    PreTokenizer("qwen35", (QWEN35,), False, "Qwen3.5"),
    PreTokenizer("seed-coder", (SEED_CODER,), False, "Seed-Coder"),
    PreTokenizer("bailingmoe", (LING,), False, "Ling, Ring"),
    PreTokenizer("ufakzeka", (_words(r"\p{N}", contractions=""),), False, "ufakzeka"),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", _words(r"\p{N}+")), True, "MiniCPM5"),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", _CJK_RUNS, _DEEPSEEK_WORDS), False, "DeepSeek-V3, DeepSeek-R1"),
    PreTokenizer("deepseek-coder", DEEPSEEK_CODER, False, "DeepSeek-Coder", _SPACE_DIFFERENCE),
    PreTokenizer("gpt-4o", (O200K,), False, "GPT-4o, gpt-oss, Llama 4", _CASE_DIFFERENCE),
    PreTokenizer("tekken", (TEKKEN,), True, "Mistral NeMo", _CASE_DIFFERENCE),
)


def recognize_pre_tokenizer(steps: Sequence[Step]) -> list[PreTokenizer]:
    """The rows that split as the pre-tokenizers of a tokenizer.json do; they differ in `ignores_merges`.

    EdgeError when there is none.
    """
    splits = tuple(_splits(steps))
    rows = [row for row in PRE_TOKENIZERS if row.splits == splits]
    return rows or _refuse(f"splits text with {' then '.join(splits) or 'no regex'}")


def is_byte_level(steps: Sequence[Step]) -> bool:
    """Whether the pre-tokenizers end by writing bytes as printable characters."""
    return bool(steps) and steps[-1]["type"] == "ByteLevel"


def _splits(steps: Sequence[Step]) -> Iterator[str]:
    *splits, byte_level = steps
    for split in splits:
        yield _regex(split)
    if byte_level.get("add_prefix_space", True):
        _refuse("puts a space before every text")
    if byte_level.get("use_regex", True):
        yield GPT2


def _regex(step: Step) -> str:
    """The regex whose matches a step isolates."""
    match step:
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return _spelled(regex)
        # keeping only what matches is the same for a regex that leaves nothing out
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Removed", "invert": True}:
            return _spelled(regex)
        case {"type": "Digits", "individual_digits": individual}:
            return EACH_DIGIT if individual else DIGIT_RUNS
    return _refuse(f"has the step {json.dumps(step, ensure_ascii=False)}")


def _spelled(regex: str) -> str:
    """The regex with its line ends written as escapes: published files have either."""
    return regex.replace("\r", r"\r").replace("\n", r"\n")


def _refuse(reason: str) -> NoReturn:
    known = ", ".join(f"{row.name} ({row.models})" for row in PRE_TOKENIZERS)
    raise EdgeError(
        f"tokenizer.json has a pre-tokenizer that llama.cpp has no known name for: it {reason}.",
        hint=f"Known pre-tokenizers: {known}.",
    )
