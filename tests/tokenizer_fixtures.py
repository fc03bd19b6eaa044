"""Tiny tokenizers, trained on the hard texts within seconds, and what their vocabularies do inside llama.cpp."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from convert.checkpoint import Checkpoint
from convert.gguf_header import header_bytes
from convert.hard_text import HARD_TEXT
from convert.vocabulary import Vocabulary
from edge.gguf_format import MetadataEntry, ValueType
from edge.llama.model import Model
from edge.llama.vocab import Vocab

END = "<|endoftext|>"
PIECES = 1500


def checkpoint(
    directory: Path,
    *,
    tokenizer_config: Mapping[str, Any] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A checkpoint with nothing but the tokenizer that is in `directory`."""
    files = {name: directory / name for name in ("tokenizer.json", "tokenizer.model")}
    existing = {name: path if path.is_file() else None for name, path in files.items()}
    return Checkpoint(
        directory=directory,
        name="tiny",
        repository=None,
        config=dict(config or {}),
        generation_config=dict(generation_config or {}),
        tokenizer_config=dict(tokenizer_config or {}),
        chat_template=None,
        tensors={},
        header_sha256={},
        file_sha256={},
        tokenizer_json=existing["tokenizer.json"],
        tokenizer_model=existing["tokenizer.model"],
        architecture="LlamaForCausalLM",
    )


def added(number: int, text: str, *, special: bool = False, **flags: bool) -> dict[str, Any]:
    """An added token as tokenizer.json writes it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **plain, "special": special, **flags}


@cache
def _trained_on_bytes() -> str:
    """Byte-level merges learned across all boundaries, so that a word split elsewhere shows in the ids.

    Control tokens are kept out of the merges: llama.cpp makes some texts control tokens whatever the file says.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for text in HARD_TEXT.values() if "|>" not in text), trainer)
    return tokenizer.to_str()


def byte_level_json(splits: Sequence[str], **model: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json that splits text with the regexes; END is its last token."""
    content: dict[str, Any] = json.loads(_trained_on_bytes())
    isolated = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in splits
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*isolated, byte_level]}
    content["model"] |= model
    content["added_tokens"] = [added(len(content["model"]["vocab"]), END, special=True)]
    return content


@cache
def sentencepiece_model(**settings: Any) -> bytes:
    """A SentencePiece BPE model; `settings` replace those of the trainer."""
    writer = io.BytesIO()
    plain: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": PIECES,
        "character_coverage": 0.98,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    lines = (line for text in HARD_TEXT.values() for line in text.splitlines() if line)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=writer, **plain | settings)
    return writer.getvalue()


def byte_fallback_json(**rules: Any) -> dict[str, Any]:
    """A tokenizer.json with the pieces of a SentencePiece model and every merge that makes one.

    `rules` are its normalizer and pre_tokenizer. Source: generate_merges in transformers' convert_slow_tokenizer.py
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    numbers = range(processor.get_piece_size())
    vocabulary = {processor.id_to_piece(number): number for number in numbers}
    merged = [n for n in numbers if not (processor.is_control(n) or processor.is_unknown(n) or processor.is_byte(n))]
    merges = []
    for piece in map(processor.id_to_piece, sorted(merged, key=processor.get_score, reverse=True)):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (len(pair[0]), len(pair[1])), reverse=True)
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": [added(vocabulary[text], text, special=True) for text in ("<unk>", "<s>", "</s>")],
        **rules,
        "model": {**model, "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
    }


def write_json(directory: Path, content: Mapping[str, Any]) -> Tokenizer:
    """Writes tokenizer.json and gives the tokenizer that the library makes of it."""
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Tokenizer.from_file(str(path))


@contextmanager
def opened(vocabulary: Vocabulary, path: Path) -> Iterator[Vocab]:
    """The vocabulary as llama.cpp reads it from a file."""
    entries = [MetadataEntry("general.architecture", ValueType.STRING, "llama"), *vocabulary.metadata()]
    path.write_bytes(header_bytes(entries, []))
    with Model(path, vocabulary_only=True) as model:
        yield model.vocab


def differing(
    tokenizer: Tokenizer,
    vocab: Vocab,
    texts: Mapping[str, str],
    *,
    special: bool = False,
) -> dict[str, tuple[list[int], list[int]]]:
    """Texts for which llama.cpp's ids differ from the tokenizer's, with both; `special` reads control tokens too."""
    tokenizer.encode_special_tokens = not special
    found = {}
    for name, text in texts.items():
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        got = vocab.tokenize(text, parse_special=special)
        if got != expected:
            found[name] = expected, got
    return found
