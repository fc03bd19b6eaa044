"""tokenizer.model is read as SentencePiece reads it; damaged ones and those llama.cpp cannot reproduce are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from convert.sentencepiece_model import read_sentencepiece_model
from convert.vocabulary import TokenType
from edge.errors import EdgeError
from tests.tokenizer_fixtures import sentencepiece_model


def written(directory: Path, content: bytes) -> Path:
    path = directory / "tokenizer.model"
    path.write_bytes(content)
    return path


def field(number: int, value: int | bytes) -> bytes:
    """A protocol buffer's field; numbers below 128 only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def model(pieces: int = 1, model_type: int = 2, **normalizer: int | bytes) -> bytes:
    """A model of as many pieces, without special ones."""
    numbers = {"charsmap": 2, "add_dummy_prefix": 3, "remove_extra_whitespaces": 4, "escape_whitespaces": 5}
    piece = field(1, field(1, b"a") + bytes([2 << 3 | 5]) + struct.pack("<f", -1.5))
    settings = {"remove_extra_whitespaces": 0} | normalizer
    rules = b"".join(field(numbers[name], value) for name, value in settings.items())
    return piece * pieces + field(2, field(3, model_type)) + field(3, rules)


def test_pieces_scores_and_types_are_those_that_sentencepiece_reads(tmp_path: Path) -> None:
    content = sentencepiece_model(user_defined_symbols="<table>,<b>", pad_id=3)
    processor = SentencePieceProcessor(model_proto=content)
    read = read_sentencepiece_model(written(tmp_path, content))
    numbers = range(processor.get_piece_size())
    assert [piece.text for piece in read.pieces] == [processor.id_to_piece(number) for number in numbers]
    assert [piece.score for piece in read.pieces] == [processor.get_score(number) for number in numbers]
    for kind, has_kind in (
        (TokenType.UNKNOWN, processor.is_unknown),
        (TokenType.CONTROL, processor.is_control),
        (TokenType.UNUSED, processor.is_unused),
        (TokenType.BYTE, processor.is_byte),
    ):
        found = [number for number, piece in enumerate(read.pieces) if piece.type == kind]
        assert found == [number for number in numbers if has_kind(number)]
    assert [piece.text for piece in read.pieces if piece.type == TokenType.USER_DEFINED] == ["<table>", "<b>"]


def test_roles_and_the_space_in_front_are_read(tmp_path: Path) -> None:
    content = sentencepiece_model(bos_id=2, eos_id=1, pad_id=-1, unk_id=0, add_dummy_prefix=False)
    read = read_sentencepiece_model(written(tmp_path, content))
    assert read.role_ids == {"unk": 0, "bos": 2, "eos": 1}
    assert not read.add_dummy_prefix


def test_fields_that_are_not_written_have_their_defaults(tmp_path: Path) -> None:
    read = read_sentencepiece_model(written(tmp_path, model(pieces=3)))
    assert [(piece.text, piece.score, piece.type) for piece in read.pieces] == [("a", -1.5, TokenType.NORMAL)] * 3
    assert read.role_ids == {"unk": 0, "bos": 1, "eos": 2}
    assert read.add_dummy_prefix


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": 1}, "holds a SentencePiece Unigram model"),
        ({"model_type": 3}, "holds a SentencePiece word model"),
        ({"model_type": 4}, "holds a SentencePiece character model"),
        ({"charsmap": b"x"}, "replaces characters before merging"),
        ({"remove_extra_whitespaces": 1}, "takes repeated spaces away"),
        ({"escape_whitespaces": 0}, "keeps spaces as spaces"),
    ],
)
def test_model_that_llama_cpp_cannot_reproduce_is_refused(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EdgeError, match=reason):
        read_sentencepiece_model(written(tmp_path, model(**settings)))


def test_model_that_puts_the_space_behind_a_word_is_refused(tmp_path: Path) -> None:
    content = sentencepiece_model(treat_whitespace_as_suffix=True)
    with pytest.raises(EdgeError, match="puts the space behind a word"):
        read_sentencepiece_model(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no pieces"),
        (model(pieces=0), "it has no pieces"),
        (model()[:-1], "it is truncated"),
        (model()[:4], "it is truncated"),
        (b"\x0b", "unknown wire type 3"),
        (b"\xff" * 11, "a number is longer than 64 bits"),
        (b"\xff", "it is truncated"),
        (field(1, 1), "field 1 is no message"),
        (field(1, field(3, 7)), "7 is not a valid TokenType"),
        (model()[:-4] + field(2, field(3, b"2")), "field 3 is no number"),
        (field(1, field(1, 1)), "a piece has fields of the wrong type"),
        (field(1, field(1, b"\xff")), "invalid start byte"),
        (field(1, field(2, b"")), "requires a buffer of 4 bytes"),
    ],
)
def test_damaged_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=f"is not a SentencePiece model: .*{reason}"):
        read_sentencepiece_model(written(tmp_path, content))


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_file_with_any_byte_changed_is_read_or_refused(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(sentencepiece_model()[:2000] + sentencepiece_model()[-400:])
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "changed.model"
    path.write_bytes(content)
    try:
        pieces = read_sentencepiece_model(path).pieces
    except EdgeError:
        return
    assert pieces
