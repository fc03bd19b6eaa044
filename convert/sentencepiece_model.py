"""Reads a tokenizer.model, SentencePiece's own file.

The few fields that matter are read from the serialized protocol buffer here: the sentencepiece library tells neither
which pieces are user-defined nor how text is normalized.
Source: sentencepiece_model.proto of https://github.com/google/sentencepiece; protobuf's encoding specification
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convert.vocabulary import TokenType
from edge.errors import EdgeError

# Field numbers of ModelProto and of the messages in it
_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _WHITESPACE_AS_SUFFIX = 3, 24
_ROLE_FIELDS = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}  # field, id when it is not given
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES, _ESCAPE_WHITESPACES = 2, 3, 4, 5

_BPE = 2
_MODEL_TYPES = {1: "Unigram", _BPE: "BPE", 3: "word", 4: "character"}

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5

Fields = dict[int, int | bytes]


@dataclass(frozen=True)
class SentencePiece:
    """A piece. llama.cpp's token types have the numbers of SentencePiece's."""

    text: str
    score: float
    type: TokenType


@dataclass(frozen=True)
class SentencePieceModel:
    """A tokenizer.model that merges pieces by score (BPE) and takes text as it is."""

    pieces: list[SentencePiece]
    role_ids: dict[str, int]
    """Ids of `unk`, `bos`, `eos` and `pad`, where they exist."""
    add_dummy_prefix: bool
    """A space is put in front of every text."""


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """The model in a file; EdgeError when it is damaged or of a kind that llama.cpp cannot reproduce."""
    try:
        content = path.read_bytes()
        pieces = [_piece(message) for message in _messages(content, _PIECES)]
        if not pieces:
            raise ValueError("it has no pieces")
        trainer = _merged(_messages(content, _TRAINER_SPEC))
        normalizer = _merged(_messages(content, _NORMALIZER_SPEC))
        _check_reproducible(path, trainer, normalizer)
        return SentencePieceModel(
            pieces=pieces,
            role_ids=dict(_role_ids(trainer, len(pieces))),
            add_dummy_prefix=bool(_number(normalizer, _ADD_DUMMY_PREFIX, 1)),
        )
    except (OSError, ValueError, struct.error) as error:
        raise EdgeError(f"{path} is not a SentencePiece model: {error}.", hint="Download the file again.") from error


def _check_reproducible(path: Path, trainer: Fields, normalizer: Fields) -> None:
    model_type = _number(trainer, _MODEL_TYPE, 1)
    if model_type != _BPE:
        name = _MODEL_TYPES.get(model_type, str(model_type))
        raise EdgeError(f"{path} holds a SentencePiece {name} model, which cannot be converted.", hint="BPE can.")
    reason = None
    if normalizer.get(_CHARSMAP):
        reason = "replaces characters before merging"
    elif _number(normalizer, _REMOVE_EXTRA_WHITESPACES, 1):
        reason = "takes repeated spaces away"
    elif not _number(normalizer, _ESCAPE_WHITESPACES, 1):
        reason = "keeps spaces as spaces"
    elif _number(trainer, _WHITESPACE_AS_SUFFIX, 0):
        reason = "puts the space behind a word"
    if reason:
        raise EdgeError(
            f"{path} {reason}, which llama.cpp cannot reproduce.",
            hint="Known: the normalization 'identity' without removing extra white space.",
        )


def _role_ids(trainer: Fields, piece_count: int) -> Iterator[tuple[str, int]]:
    for role, (field, default) in _ROLE_FIELDS.items():
        number = _number(trainer, field, default)
        if 0 <= number < piece_count:  # negative ones are huge, because they are read as unsigned
            yield role, number


def _piece(message: bytes) -> SentencePiece:
    fields = dict(_fields(message))
    text, score = fields.get(_PIECE_TEXT, b""), fields.get(_PIECE_SCORE, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece has fields of the wrong type")
    return SentencePiece(
        text=text.decode("utf-8"),
        score=struct.unpack("<f", score)[0],
        type=TokenType(_number(fields, _PIECE_TYPE, TokenType.NORMAL)),
    )


def _number(fields: Fields, field: int, default: int) -> int:
    value = fields.get(field, default)
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _messages(content: bytes, number: int) -> Iterator[bytes]:
    for field, value in _fields(content):
        if field == number:
            if not isinstance(value, bytes):
                raise ValueError(f"field {number} is no message")
            yield value


def _merged(messages: Iterator[bytes]) -> Fields:
    """The fields of a message, which may be written in several parts; the last value of each counts."""
    return {field: value for message in messages for field, value in _fields(message)}


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values in file order: numbers as written, everything else as bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if kind == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if length > len(message) - position:
            raise ValueError("it is truncated")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number written in groups of 7 bits, lowest first, and the position behind it."""
    number = 0
    for group in range(10):
        if position + group >= len(message):
            raise ValueError("it is truncated")
        byte = message[position + group]
        number |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return number, position + group + 1
    raise ValueError("a number is longer than 64 bits")
