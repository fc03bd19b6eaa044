"""Token ids: every difference is found, and only one that was stated is excused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from convert.checkpoint import read_checkpoint
from convert.hard_text import HARD_TEXT
from convert.proof_tokens import (
    SentencePieceOracle,
    TokenComparison,
    TokenDifference,
    TokenizersOracle,
    compare_tokens,
    proof_texts,
    shown_text,
)
from convert.source import read_model
from convert.vocabulary import Limitation
from tests.convert.conftest import TinyFolder
from tests.tiny import TINY
from tests.tokenizer_fixtures import byte_level_json, opened, sentencepiece_model, write_json

STATED = Limitation.of_tokens("llama.cpp finds 'bee' within words as well", ["bee"])
OTHER = Limitation("llama.cpp ends a generation at '</s>'")


@dataclass
class Letters:
    """Ids are characters of the text after a change."""

    change: Callable[[str], str] = str
    reads_control_tokens: bool = True

    def can_read(self, text: str) -> bool:
        return "unknown" not in text

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        return [ord(letter) for letter in self.change(text)]


def upper_bees(text: str) -> str:
    return text.replace("bee", "BEE")


def compared(change: Callable[[str], str], text: str, *limitations: Limitation) -> TokenComparison:
    return compare_tokens(Letters(), Letters(change), {"text": text}, limitations)


def test_equal_ids_are_counted_for_plain_and_for_trusted_text() -> None:
    assert compare_tokens(Letters(), Letters(), HARD_TEXT, ()) == TokenComparison(2 * len(HARD_TEXT), ())
    plain = compare_tokens(Letters(reads_control_tokens=False), Letters(), HARD_TEXT, ())
    assert plain.texts == len(HARD_TEXT)


def test_text_that_the_oracle_does_not_know_is_left_out() -> None:
    assert compare_tokens(Letters(), Letters(str.upper), {"a": "an unknown token"}, ()) == TokenComparison(0, ())


def test_difference_has_both_ids_and_its_place() -> None:
    first, _ = compared(upper_bees, "a bee").unexplained
    assert first == TokenDifference("text", "a bee", tuple(b"a bee"), tuple(b"a BEE"))
    assert first.place == 2
    assert TokenDifference("text", "", (1, 2), (1, 2, 3)).place == 2


def test_difference_that_was_stated_is_excused_with_its_words() -> None:
    result = compared(upper_bees, "a bee", OTHER, STATED)
    assert result.unexplained == ()
    assert {difference.limitation for difference in result.differences} == {STATED.words}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (upper_bees, "a bee"),  # nothing was stated
        (str.upper, "a bee"),  # differs without the token as well
    ],
)
def test_difference_that_was_not_stated_is_not_excused(change: Callable[[str], str], text: str) -> None:
    limitations = (OTHER,) if change is upper_bees else (OTHER, STATED)
    assert len(compared(change, text, *limitations).unexplained) == 2


def test_stated_token_does_not_excuse_a_text_without_it() -> None:
    assert len(compared(str.upper, "a fly", STATED).unexplained) == 2


def test_oracle_reads_control_tokens_in_trusted_text_only(tmp_path: Path) -> None:
    content = byte_level_json([r"\s+"])
    end = content["added_tokens"][0]
    write_json(tmp_path, content)
    oracle = TokenizersOracle(tmp_path / "tokenizer.json")
    text = f"Hi{end['content']}"
    assert end["id"] not in oracle.tokenize(text, parse_special=False)
    assert oracle.tokenize(text, parse_special=True)[-1] == end["id"]


def test_oracle_of_a_tokenizer_model_is_sentencepiece(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    oracle = SentencePieceOracle(path)
    expected = SentencePieceProcessor(model_file=str(path)).encode("The bees")
    assert oracle.tokenize("The bees", parse_special=False) == expected
    assert not oracle.reads_control_tokens


def test_sentencepiece_does_not_know_tokens_that_were_added_to_its_model(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(user_defined_symbols="<table>"))
    oracle = SentencePieceOracle(path, ["<table>", "<tool>", "two words"])
    assert oracle.can_read("a <table>")
    assert not oracle.can_read("a <tool>")
    assert not oracle.can_read("in two words")


@pytest.mark.parametrize("name", TINY)
def test_tokenizer_of_every_family_gives_its_ids(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny(name))
    vocabulary = read_model(checkpoint)[2]
    assert checkpoint.tokenizer_json is not None
    texts = proof_texts(token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind != 1)
    with opened(vocabulary, tmp_path / "vocabulary.gguf") as vocab:
        found = compare_tokens(TokenizersOracle(checkpoint.tokenizer_json), vocab, texts, vocabulary.limitations)
    assert found.unexplained == ()


def test_texts_of_the_proof_hold_the_tokenizer_s_own_tokens() -> None:
    texts = proof_texts(["<a>", "<b>"])
    assert texts.keys() - HARD_TEXT.keys() == {"around <a>", "around <b>"}
    assert texts["around <a>"].startswith("<a>Hi<a>there")
    assert len(proof_texts([str(number) for number in range(9000)])) == len(HARD_TEXT) + 200


def test_text_is_shown_on_one_line() -> None:
    assert shown_text("a\nb") == r"'a\nb'"
    assert shown_text("x" * 99) == repr("x" * 39 + "…")
