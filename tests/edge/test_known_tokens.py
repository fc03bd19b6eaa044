"""Prompts in the tokens that were computed: the text stays what it was, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.known_tokens import with_known_tokens
from edge.local_engine import LocalEngine as Engine
from edge.prompt import Message
from edge.settings import ModelSettings
from tests.edge.toy_vocabulary import ByteVocabulary

# bytes are themselves, 256 to 258 control tokens, then words
VOCABULARY = ByteVocabulary([b"Hel", b"lo", b"Hello", b" wor", b"ld", b"</s>", "é".encode()])
EOS, TURN = 257, 258
HEL, LO, HELLO, WOR, LD, LOOK_ALIKE, E_ACUTE = range(259, 266)


def text_of(tokens: Sequence[int]) -> list[int | bytes]:
    """What a model reads: control tokens, and the bytes between them."""
    parts: list[int | bytes] = []
    for token in tokens:
        piece = VOCABULARY.piece(token)
        if VOCABULARY.is_control(token):
            parts.append(token)
        elif parts and isinstance(parts[-1], bytes):
            parts[-1] += piece
        else:
            parts.append(piece)
    return parts


def test_answer_keeps_the_tokens_that_the_model_chose() -> None:
    known = [TURN, ord("?"), TURN, HEL, LO, WOR, LD]
    again = [TURN, ord("?"), TURN, HELLO, WOR, LD, EOS, TURN, ord("!")]
    assert with_known_tokens(again, known, VOCABULARY) == (*known, EOS, TURN, ord("!"))


def test_every_earlier_answer_keeps_its_tokens() -> None:
    known = [TURN, HEL, LO, EOS, TURN, ord("?"), TURN, *b"Hello", WOR, LD]
    again = [TURN, HELLO, EOS, TURN, ord("?"), TURN, HELLO, WOR, LD, EOS, TURN]
    assert with_known_tokens(again, known, VOCABULARY) == (*known, EOS, TURN)


def test_tokens_are_kept_as_far_as_the_text_is_the_same() -> None:
    known = [TURN, HEL, LO, WOR, LD]
    assert with_known_tokens([TURN, HELLO, *b" you", EOS], known, VOCABULARY) == (TURN, HEL, LO, *b" you", EOS)
    assert with_known_tokens([TURN, HELLO], known, VOCABULARY) == (TURN, HEL, LO)
    assert with_known_tokens([EOS, HELLO], known, VOCABULARY) == (EOS, HELLO)


def test_text_that_ends_inside_a_token_is_not_cut_there() -> None:
    assert with_known_tokens([TURN, HELLO, EOS], [TURN, HEL], VOCABULARY) == (TURN, HELLO, EOS)
    assert with_known_tokens([TURN, HEL, EOS], [TURN, HELLO], VOCABULARY) == (TURN, HEL, EOS)


def test_half_a_character_that_an_answer_ended_with_is_not_kept() -> None:
    replaced = list("\ufffd".encode())
    assert with_known_tokens([TURN, *replaced, EOS], [TURN, 0xC3], VOCABULARY) == (TURN, *replaced, EOS)
    assert with_known_tokens([TURN, E_ACUTE, EOS], [TURN, 0xC3, 0xA9], VOCABULARY) == (TURN, 0xC3, 0xA9, EOS)


def test_text_never_becomes_a_control_token_nor_one_text() -> None:
    for other in (LOOK_ALIKE, *b"</s>"):
        assert with_known_tokens([TURN, other, TURN], [TURN, EOS, TURN], VOCABULARY) == (TURN, other, TURN)
        assert with_known_tokens([TURN, EOS, TURN], [TURN, other, TURN], VOCABULARY) == (TURN, EOS, TURN)


def test_control_token_that_an_answer_had_in_the_middle_is_not_kept() -> None:
    assert with_known_tokens([TURN, HELLO, WOR], [TURN, HEL, LO, TURN, WOR], VOCABULARY) == (TURN, HEL, LO, WOR)


def test_numbers_that_are_no_tokens_are_not_kept() -> None:
    for number in (-1, 266, 1 << 40):
        assert with_known_tokens([TURN, HELLO], [TURN, number], VOCABULARY) == (TURN, HELLO)


@given(
    known=st.lists(st.integers(min_value=250, max_value=265) | st.sampled_from(b"Helo wrd"), max_size=12),
    rest=st.lists(st.integers(min_value=256, max_value=265) | st.sampled_from(b"Helo wrd"), max_size=6),
    cut=st.integers(min_value=0, max_value=12),
)
def test_the_text_is_the_same_whatever_is_known(known: list[int], rest: list[int], cut: int) -> None:
    # the same beginning, each run of text tokenized as it should be
    tokens: list[int] = []
    for part in text_of(known[:cut]):
        tokens += [part] if isinstance(part, int) else VOCABULARY.tokenize(part.decode("latin-1"))
    tokens += rest
    result = with_known_tokens(tokens, known, VOCABULARY)
    assert text_of(result) == text_of(tokens)


@pytest.mark.model
def test_real_answer_in_odd_tokens_is_found_again(demo_gguf: Path) -> None:
    with Engine(demo_gguf, ModelSettings(context_tokens=256, threads=1)) as engine:
        question = Message("user", "Name a capital.")
        prompt = engine.chat_tokens([question])
        letters = [token for letter in "The capital" for token in engine.vocab.tokenize(letter)]
        known = (*prompt, *letters)
        conversation = [question, Message("assistant", "The capital"), Message("user", "Which?")]
        plain = engine.chat_tokens(conversation)
        kept = engine.chat_tokens(conversation, known_tokens=known)
        assert plain[: len(known)] != known
        assert kept[: len(known)] == known
        assert "".join(map(engine.vocab.text, kept)) == "".join(map(engine.vocab.text, plain))
