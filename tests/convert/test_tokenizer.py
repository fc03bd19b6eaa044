"""Vocabularies give the token ids of the original tokenizer inside llama.cpp; what llama.cpp cannot do is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from convert.hard_text import HARD_TEXT
from convert.pretokenizers import CL100K, QWEN2
from convert.text_rules import SPACE
from convert.tokenizer import read_vocabulary
from convert.vocabulary import TokenType, Vocabulary
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType
from edge.llama.vocab import Vocab
from tests.tokenizer_fixtures import (
    END,
    PIECES,
    added,
    byte_fallback_json,
    byte_level_json,
    checkpoint,
    differing,
    opened,
    sentencepiece_model,
    write_json,
)

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE]}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
LLAMA_CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def entries(vocabulary: Vocabulary) -> dict[str, MetadataEntry]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry for entry in vocabulary.metadata()}


def limitations(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(limitation.words for limitation in vocabulary.limitations)


def read_json(directory: Path, content: dict[str, Any], size: int = 2600, **config: Any) -> Vocabulary:
    """The vocabulary of a checkpoint whose tokenizer.json has this content."""
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return read_vocabulary(checkpoint(directory, tokenizer_config=config or LLAMA_CONFIG), size)


# BPE with byte fallback


@pytest.mark.parametrize(
    ("rules", "adds_space"),
    [
        ({"normalizer": REPLACE, "pre_tokenizer": SPLIT}, False),  # Gemma
        ({"normalizer": REPLACE}, False),
        ({"normalizer": PREPEND}, True),  # Llama 2 and Mistral as published
        ({"pre_tokenizer": metaspace("never")}, False),
    ],
    ids=["split at spaces", "replaced spaces", "prepended space", "metaspace without prefix"],
)
def test_ids_with_byte_fallback_are_those_of_the_tokenizer(
    rules: dict[str, Any], adds_space: bool, tmp_path: Path
) -> None:
    tokenizer = write_json(tmp_path, byte_fallback_json(**rules))
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config=LLAMA_CONFIG), PIECES)
    assert entries(vocabulary)["model"].value == "llama"
    assert entries(vocabulary)["add_space_prefix"].value is adds_space
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, HARD_TEXT) == {}
        assert differing(tokenizer, vocab, HARD_TEXT, special=True) == {}


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_prefix_space_of_transformers_5_is_told_to_edge(scheme: str, tmp_path: Path) -> None:
    tokenizer = write_json(tmp_path, byte_fallback_json(pre_tokenizer=metaspace(scheme)))
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config=LLAMA_CONFIG), PIECES)
    assert entries(vocabulary)["edge.tokenizer.prefix_space"].value == scheme
    around = {"control tokens": "<s>a</s> b</s><s>\n<unk>c <s>", "starts with one": "<s>a", "one only": "</s>"}
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, HARD_TEXT | around) == {}
        assert differing(tokenizer, vocab, HARD_TEXT | around, special=True) == {}
    without = replace(vocabulary, rules=replace(vocabulary.rules, prefix_space=None))
    with opened(without, tmp_path / "without.gguf") as vocab:
        # without the rule llama.cpp doubles a space that a text begins with, and nothing else
        other = differing(tokenizer, vocab, HARD_TEXT)
        assert other
        assert all(HARD_TEXT[name].startswith((" ", SPACE)) for name in other)


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tokenizer, Vocab]]:
    directory = tmp_path_factory.mktemp("merging")
    tokenizer = write_json(directory, byte_fallback_json(normalizer=PREPEND))
    vocabulary = read_vocabulary(checkpoint(directory, tokenizer_config=LLAMA_CONFIG), PIECES)
    with opened(vocabulary, directory / "vocabulary.gguf") as vocab:
        yield tokenizer, vocab


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("abeinorst  thinger\n.é🐝\u0301▁<s>"), max_size=60) | st.text(max_size=30))
def test_ids_with_byte_fallback_of_any_text_are_those_of_the_tokenizer(
    text: str, merging: tuple[Tokenizer, Vocab]
) -> None:
    assert differing(*merging, {"text": text.replace("\0", "")}) == {}


def test_user_defined_tokens_are_found_before_merging_and_runs_of_spaces_are_merged(tmp_path: Path) -> None:
    content = byte_fallback_json(normalizer=REPLACE)
    runs = [text for text in content["model"]["vocab"] if set(text) == {SPACE} and len(text) > 1]
    assert runs
    numbers = content["model"]["vocab"]
    content["added_tokens"] += [added(numbers[run], run) for run in runs]
    content["added_tokens"] += [added(PIECES, "<table>"), added(PIECES + 1, "the bees"), added(PIECES + 2, "\n\n")]
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config=LLAMA_CONFIG), PIECES + 3)
    assert vocabulary.types[PIECES:] == [TokenType.USER_DEFINED] * 3
    texts = HARD_TEXT | {"added": "a<table>\n\n\n<table >the bees  the  beesthe bees\n"}
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, texts) == {}
        assert [vocab.piece(numbers[run]) for run in runs] == [b" " * len(run) for run in runs]


def test_text_that_is_a_byte_token_by_its_look_stays_text(tmp_path: Path) -> None:
    content = byte_fallback_json(normalizer=REPLACE)
    line_feed = content["model"]["vocab"]["<0x0A>"]
    vocabulary = read_json(tmp_path, content, PIECES)
    assert vocabulary.types[line_feed] == TokenType.BYTE
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert line_feed not in vocab.tokenize("<0x0A>", parse_special=True)
        assert vocab.piece(line_feed) == b"\n"


# Byte-level BPE


def test_merges_written_as_text_or_as_pairs_are_the_same(tmp_path: Path) -> None:
    pairs = byte_level_json([CL100K])
    texts = byte_level_json([CL100K])
    texts["model"]["merges"] = [" ".join(pair) for pair in pairs["model"]["merges"]]
    vocabularies = [read_json(tmp_path, content, eos_token=END) for content in (pairs, texts)]
    assert vocabularies[0] == vocabularies[1]
    assert vocabularies[0].merges == texts["model"]["merges"]


def test_merge_with_a_space_in_it_is_left_out_because_it_never_applies(tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    content["model"]["vocab"] |= {" ": 2600, "a ": 2601}
    content["model"]["merges"].insert(0, ["a", " "])
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config={"eos_token": END}), 2602)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, HARD_TEXT) == {}


def test_whole_words_are_taken_as_tokens_where_the_tokenizer_ignores_merges(tmp_path: Path) -> None:
    content = byte_level_json([CL100K], ignore_merges=True)
    content["model"]["vocab"]["Ġzxqvzxqv"] = 2600
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config={"eos_token": END}), 2601)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert vocab.tokenize(" zxqvzxqv") == tokenizer.encode(" zxqvzxqv").ids == [2600]


def test_ignored_merges_do_not_matter_where_merges_lead_to_every_token(tmp_path: Path) -> None:
    content = byte_level_json([QWEN2], ignore_merges=True)
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config={"eos_token": END}), 2600)
    assert vocabulary.pre == "qwen2"
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, HARD_TEXT) == {}


def test_ignored_merges_are_refused_where_llama_cpp_would_merge(tmp_path: Path) -> None:
    content = byte_level_json([QWEN2], ignore_merges=True)
    content["model"]["vocab"]["Ġzxqvzxqv"] = 2600
    with pytest.raises(EdgeError, match=r"sets ignore_merges to true.*qwen2 does the opposite.*'Ġzxqvzxqv'"):
        read_json(tmp_path, content, 2601, eos_token=END)


def test_normalization_is_told_to_edge_because_llama_cpp_has_none(tmp_path: Path) -> None:
    tokenizer = write_json(tmp_path, byte_level_json([QWEN2]) | {"normalizer": {"type": "NFC"}})
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config={"eos_token": END}), 2600)
    assert entries(vocabulary)["edge.tokenizer.normalization"].value == "NFC"
    without = replace(vocabulary, rules=replace(vocabulary.rules, normalization=None))
    with opened(without, tmp_path / "without.gguf") as vocab:
        assert "accents decomposed" in differing(tokenizer, vocab, HARD_TEXT)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert differing(tokenizer, vocab, HARD_TEXT) == {}


# tokenizer.model


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_ids_of_a_sentencepiece_model_are_those_of_sentencepiece(dummy_prefix: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"add_dummy_prefix": dummy_prefix}
    texts = dict(HARD_TEXT)
    if not dummy_prefix:  # llama.cpp puts the prefix behind user-defined tokens as well
        settings["user_defined_symbols"] = f"<table>,{SPACE * 2},{SPACE * 3}"
        del texts["space marker"]  # llama.cpp finds the runs where they are spaces, not where they are written out
    content = sentencepiece_model(**settings)
    (tmp_path / "tokenizer.model").write_bytes(content)
    processor = SentencePieceProcessor(model_proto=content)
    vocabulary = read_vocabulary(checkpoint(tmp_path), PIECES)
    assert vocabulary.rules.add_space_prefix is dummy_prefix
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        for name, text in texts.items():
            assert vocab.tokenize(text) == processor.encode(text), name


def test_space_behind_user_defined_pieces_is_told(tmp_path: Path) -> None:
    content = sentencepiece_model(user_defined_symbols="<table>", add_dummy_prefix=True)
    (tmp_path / "tokenizer.model").write_bytes(content)
    vocabulary = read_vocabulary(checkpoint(tmp_path), PIECES)
    assert limitations(vocabulary) == ("llama.cpp puts a space behind '<table>', the tokenizer does not",)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        text = "one<table>two"
        assert vocab.tokenize(text) != SentencePieceProcessor(model_proto=content).encode(text)


def test_sentencepiece_model_names_its_special_tokens_and_begins_texts_with_bos(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(bos_id=2, eos_id=1, pad_id=3, unk_id=0))
    vocabulary = read_vocabulary(checkpoint(tmp_path), PIECES)
    assert vocabulary.special_ids == {"unk": 0, "bos": 2, "eos": 1, "pad": 3, "eot": 1}
    assert (vocabulary.add_bos, vocabulary.add_eos) == (True, False)
    config = {"add_bos_token": False}
    assert not read_vocabulary(checkpoint(tmp_path, tokenizer_config=config), PIECES).add_bos


def test_tokens_added_to_a_sentencepiece_model_are_taken_from_either_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<plain>": PIECES, "<|im_end|>": PIECES + 1}))
    decoder = {"1": added(1, "<s>", special=True), str(PIECES + 2): added(PIECES + 2, "<tool>", special=True)}
    config = {"added_tokens_decoder": decoder}
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config=config), PIECES + 4)
    assert vocabulary.tokens[PIECES:] == ["<plain>", "<|im_end|>", "<tool>", f"[PAD{PIECES + 3}]"]
    assert [TokenType(kind).name for kind in vocabulary.types[PIECES:]] == [
        "USER_DEFINED",
        "CONTROL",
        "CONTROL",
        "UNUSED",
    ]
    assert (vocabulary.tokens[1], vocabulary.types[1]) == ("<s>", TokenType.CONTROL)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        assert vocab.tokenize("<plain><tool><|im_end|>", parse_special=True) == [PIECES, PIECES + 2, PIECES + 1]


def test_tokenizer_json_is_taken_where_both_files_exist(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    assert read_json(tmp_path, byte_level_json([CL100K]), eos_token=END).model == "gpt2"


# Tokens and ids


def test_ids_that_the_tokenizer_does_not_use_become_unused_tokens(tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    size = len(content["model"]["vocab"])
    content["added_tokens"].append(added(size + 2, "<later>"))
    vocabulary = read_json(tmp_path, content, size + 4, eos_token=END)
    assert vocabulary.tokens[size:] == [END, f"[PAD{size + 1}]", "<later>", f"[PAD{size + 3}]"]
    kinds = [TokenType.CONTROL, TokenType.UNUSED, TokenType.USER_DEFINED, TokenType.UNUSED]
    assert vocabulary.types[size:] == kinds


def test_more_ids_than_embeddings_are_refused_with_both_numbers(tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    last = content["added_tokens"][0]["id"]
    with pytest.raises(EdgeError, match=rf"has ids up to {last} \('<\|endoftext\|>'\).*for {last} tokens only"):
        read_json(tmp_path, content, last, eos_token=END)


@pytest.mark.parametrize(
    ("text", "reason"), [("[PAD2601]", r"Tokens 2600 and 2601 have the same text"), ("a\0b", "has a NUL in its text")]
)
def test_texts_that_llama_cpp_cannot_hold_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    content["model"]["vocab"][text] = 2600
    with pytest.raises(EdgeError, match=reason):
        read_json(tmp_path, content, 2602, eos_token=END)


def test_tokens_that_look_like_chat_markers_are_control_tokens_even_if_not_declared_special(tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    texts = ["<｜User｜>", "<|tool|>", "<think>", "<|", "|>"]
    first = content["added_tokens"][0]["id"] + 1
    content["added_tokens"] += [added(first + i, text) for i, text in enumerate(texts)]
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config={"eos_token": END}), first + len(texts))
    assert [kind == TokenType.CONTROL for kind in vocabulary.types[first:]] == [True, True, False, False, False]
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        text = "<｜User｜>Hi<think>"
        assert vocab.tokenize(text, parse_special=True) == tokenizer.encode(text).ids
        assert first not in vocab.tokenize(text)


def test_what_llama_cpp_does_differently_with_added_tokens_is_told(tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    content["added_tokens"] += [
        added(2600, "<|user|>", special=True, rstrip=True),
        added(2601, "bee", single_word=True),
        added(2602, "</s>"),
    ]
    assert limitations(read_json(tmp_path, content, 2603, eos_token=END)) == (
        "llama.cpp keeps the white space beside '<|user|>', which the tokenizer takes away",
        "llama.cpp finds 'bee' within words as well",
        "llama.cpp ends a generation at '</s>', which is an ordinary token of this tokenizer",
    )


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"normalizer": REPLACE}, ()),
        ({"normalizer": PREPEND}, ("llama.cpp finds '<tool>' anywhere, the tokenizer only behind a space",)),
        (
            {"pre_tokenizer": metaspace("first")},
            ("llama.cpp puts a space behind '<tool>' and '<other>', the tokenizer does not",),
        ),
    ],
    ids=["no space in front", "prepended space", "metaspace"],
)
def test_spaces_around_added_tokens_that_llama_cpp_treats_differently_are_told(
    rules: dict[str, Any], told: tuple[str, ...], tmp_path: Path
) -> None:
    content = byte_fallback_json(**rules)
    content["added_tokens"] += [added(PIECES, "<tool>", normalized=True), added(PIECES + 1, "<other>")]
    tokenizer = write_json(tmp_path, content)
    vocabulary = read_vocabulary(checkpoint(tmp_path, tokenizer_config=LLAMA_CONFIG), PIECES + 2)
    assert limitations(vocabulary) == told
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        different = differing(tokenizer, vocab, {"added": "x<tool>y<other>z"})
        assert bool(different) == bool(told)


# Metadata


def test_keys_and_types_are_those_that_llama_cpp_reads(tmp_path: Path) -> None:
    vocabulary = read_json(tmp_path, byte_level_json([CL100K]), eos_token=END, chat_template="x")
    types = {key: (entry.type, entry.element_type) for key, entry in entries(vocabulary).items()}
    assert types == {
        "model": (ValueType.STRING, None),
        "pre": (ValueType.STRING, None),
        "tokens": (ValueType.ARRAY, ValueType.STRING),
        "token_type": (ValueType.ARRAY, ValueType.INT32),
        "merges": (ValueType.ARRAY, ValueType.STRING),
        "bos_token_id": (ValueType.UINT32, None),
        "eos_token_id": (ValueType.UINT32, None),
        "eot_token_id": (ValueType.UINT32, None),
        "add_bos_token": (ValueType.BOOL, None),
        "add_eos_token": (ValueType.BOOL, None),
        "add_space_prefix": (ValueType.BOOL, None),
    }


def test_scores_are_written_for_merging_by_score_only(tmp_path: Path) -> None:
    scored = entries(read_json(tmp_path, byte_fallback_json(normalizer=REPLACE), PIECES))
    assert scored["scores"].element_type == ValueType.FLOAT32
    assert "merges" not in scored


# Refusals


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "WordPiece"}, "holds a WordPiece tokenizer"),
        ({"type": "Unigram"}, "holds a Unigram tokenizer"),
        ({"dropout": 0.1}, "sets dropout to 0.1"),
        ({"end_of_word_suffix": "</w>"}, "sets end_of_word_suffix to '</w>'"),
        ({"merges": [["a", "unknown"]]}, "is not a tokenizer.*'a' and 'unknown' is not of tokens"),
        ({"merges": ["abc"]}, "is not a tokenizer"),
        ({"vocab": {"a": "b"}}, "is not a tokenizer"),
        ({"vocab": None}, "is not a tokenizer"),
    ],
)
def test_model_that_cannot_be_converted_is_refused_by_name(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    content = byte_level_json([CL100K])
    content["model"] |= change
    with pytest.raises(EdgeError, match=reason):
        read_json(tmp_path, content, eos_token=END)


@pytest.mark.parametrize(
    "damage",
    [
        {"normalizer": 1},
        {"normalizer": {"type": 1}},
        {"pre_tokenizer": {"type": "Sequence"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [[]]}},
        {"post_processor": {}},
        {"added_tokens": [{"id": 1}]},
        {"added_tokens": [added(-1, "<x>")]},
    ],
)
def test_step_or_added_token_that_is_damaged_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="is not a tokenizer of the tokenizers library"):
        read_json(tmp_path, byte_level_json([CL100K]) | damage, eos_token=END)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"model": 1}', b"\xff\xfe", b"[" * 100_000])
def test_damaged_tokenizer_json_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(damage)
    with pytest.raises(EdgeError, match=r"tokenizer\.json is not a tokenizer of the tokenizers library"):
        read_vocabulary(checkpoint(tmp_path), 10)


def test_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"has neither tokenizer\.json nor tokenizer\.model"):
        read_vocabulary(checkpoint(tmp_path), 10)


def test_bpe_that_is_neither_byte_level_nor_has_byte_fallback_is_refused(tmp_path: Path) -> None:
    content = byte_level_json([CL100K]) | {"pre_tokenizer": {"type": "Whitespace"}}
    with pytest.raises(EdgeError, match="neither byte-level nor has byte fallback"):
        read_json(tmp_path, content, eos_token=END)


def test_missing_byte_token_is_refused_because_llama_cpp_would_abort(tmp_path: Path) -> None:
    content = byte_fallback_json(normalizer=REPLACE)
    content["model"]["vocab"]["<0xyy>"] = content["model"]["vocab"].pop("<0xF0>")
    with pytest.raises(EdgeError, match="no token for the byte <0xF0>"):
        read_json(tmp_path, content, PIECES)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"normalizer": {"type": "NFKC"}}, 'normalizer that llama.cpp cannot reproduce: .*"NFKC"'),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, REPLACE]}}, "normalizer that"),
        ({"normalizer": REPLACE, "pre_tokenizer": {"type": "Whitespace"}}, 'pre-tokenizer that .*"Whitespace"'),
        ({"pre_tokenizer": metaspace("first", split=True)}, "pre-tokenizer that"),
        ({}, r"pre-tokenizer that llama.cpp cannot reproduce: \[\]"),
    ],
)
def test_rule_with_byte_fallback_that_llama_cpp_lacks_is_refused(
    rules: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EdgeError, match=reason):
        read_json(tmp_path, byte_fallback_json(**rules), PIECES)


def test_normalizer_of_a_byte_level_tokenizer_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"normalizer that llama\.cpp cannot reproduce: .*Lowercase"):
        read_json(tmp_path, byte_level_json([CL100K]) | {"normalizer": {"type": "Lowercase"}}, eos_token=END)
