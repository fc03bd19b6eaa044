"""Every pre-tokenizer of the table splits a text inside llama.cpp where the regexes of a tokenizer.json do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from convert.hard_text import HARD_TEXT
from convert.pretokenizers import CL100K, GPT2, PRE_TOKENIZERS, PreTokenizer, recognize_pre_tokenizer
from convert.tokenizer import read_vocabulary
from convert.tokenizer_json import flat_steps
from convert.vocabulary import Vocabulary
from edge.errors import EdgeError
from edge.llama.vocab import Vocab
from tests.tokenizer_fixtures import END, byte_level_json, checkpoint, differing, opened, write_json

Loaded = tuple[Tokenizer, Vocabulary, Vocab]
Load = Callable[[PreTokenizer], Loaded]

EXACT = [row for row in PRE_TOKENIZERS if not row.difference]
DIFFERING = [row for row in PRE_TOKENIZERS if row.difference]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
# where regexes disagree: beside letters, digits, white space, apostrophes, marks, and characters of either case
BOUNDARIES = st.text(" \n\t\r'sStTdDreELL019.,!/-_(éÉ\u0301ßﬁǅ٣½中ーกิ\u00a0\u3000\u200d🐝", max_size=40)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """A tokenizer that splits as a row says, and its vocabulary inside llama.cpp; each is made once."""
    loaded: dict[str, Loaded] = {}
    with ExitStack() as stack:

        def once(row: PreTokenizer) -> Loaded:
            if row.name not in loaded:
                directory = tmp_path_factory.mktemp(row.name)
                tokenizer = write_json(directory, byte_level_json(row.splits, ignore_merges=row.ignores_merges))
                vocabulary = read_vocabulary(checkpoint(directory, tokenizer_config={"eos_token": END}), 2501)
                vocab = stack.enter_context(opened(vocabulary, directory / "vocabulary.gguf"))
                loaded[row.name] = tokenizer, vocabulary, vocab
            return loaded[row.name]

        yield once


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def names(pre_tokenizer: dict[str, Any]) -> list[str]:
    steps = list(flat_steps(pre_tokenizer, "pretokenizers"))
    return [row.name for row in recognize_pre_tokenizer(steps)]


@pytest.mark.parametrize("row", EXACT, ids=lambda row: row.name)
def test_ids_of_hard_texts_are_those_of_the_tokenizer(row: PreTokenizer, load: Load) -> None:
    tokenizer, vocabulary, vocab = load(row)
    assert vocabulary.pre == row.name
    assert differing(tokenizer, vocab, HARD_TEXT) == {}
    assert differing(tokenizer, vocab, HARD_TEXT, special=True) == {}


@pytest.mark.parametrize("row", EXACT, ids=lambda row: row.name)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=BOUNDARIES)
def test_ids_of_any_text_are_those_of_the_tokenizer(row: PreTokenizer, load: Load, text: str) -> None:
    tokenizer, _, vocab = load(row)
    assert differing(tokenizer, vocab, {"text": text}) == {}


@pytest.mark.parametrize("row", DIFFERING, ids=lambda row: row.name)
def test_difference_of_llama_cpp_is_told_and_does_not_touch_ascii(row: PreTokenizer, load: Load) -> None:
    tokenizer, vocabulary, vocab = load(row)
    ascii_only = {name: text for name, text in HARD_TEXT.items() if text.isascii()}
    assert row.difference in [limitation.words for limitation in vocabulary.limitations]
    assert differing(tokenizer, vocab, ascii_only) == {}
    assert differing(tokenizer, vocab, HARD_TEXT) != {}, "the difference is gone: take it out of the table"


@pytest.mark.parametrize(
    ("pre_tokenizer", "expected"),
    [
        ({**BYTE_LEVEL, "use_regex": True}, ["gpt-2"]),
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}, ["gpt-2"]),
        (sequence({"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}), ["smollm"]),
        (sequence(split(CL100K), BYTE_LEVEL), ["llama-bpe", "dbrx"]),
        (sequence(split(CL100K, "Removed", True), BYTE_LEVEL), ["llama-bpe", "dbrx"]),
        (sequence(split(CL100K.replace(r"\r\n", "\r\n")), BYTE_LEVEL), ["llama-bpe", "dbrx"]),
        (sequence(sequence(split(GPT2)), BYTE_LEVEL), ["gpt-2"]),
    ],
)
def test_published_ways_to_write_a_pre_tokenizer_are_recognized(
    pre_tokenizer: dict[str, Any], expected: list[str]
) -> None:
    assert names(pre_tokenizer) == expected


def test_unknown_regex_is_printed_beside_the_known_pre_tokenizers() -> None:
    with pytest.raises(EdgeError) as refused:
        names(sequence(split(r"\p{Lu}+|x"), BYTE_LEVEL))
    assert r"\p{Lu}+|x" in refused.value.message
    assert "llama-bpe (Llama 3)" in refused.value.hint
    assert "qwen2 (" in refused.value.hint


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([{"type": "Whitespace"}, BYTE_LEVEL], '"Whitespace"'),
        ([split(CL100K, "MergedWithNext"), BYTE_LEVEL], "MergedWithNext"),
        ([{**BYTE_LEVEL, "add_prefix_space": True}], "puts a space before every text"),
        ([{"type": "ByteLevel"}], "puts a space before every text"),
        ([BYTE_LEVEL], "no regex"),
    ],
)
def test_step_that_llama_cpp_lacks_is_refused(steps: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(EdgeError, match=reason):
        names(sequence(*steps))
